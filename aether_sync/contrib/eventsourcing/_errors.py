"""What the errors of a store are for a program that knows those of the package ``eventsourcing``."""

from collections.abc import Iterator
from contextlib import contextmanager

from eventsourcing.persistence import (
    DataError,
    IntegrityError,
    InterfaceError,
    NotSupportedError,
    OperationalError,
    PersistenceError,
    ProgrammingError,
)

from aether_sync import (
    AetherError,
    AtomicAppendUnsupportedError,
    ClosedError,
    DecodingError,
    DuplicateIdError,
    EncodingError,
    InvalidEventError,
    InvalidNamespaceError,
    InvalidOptionError,
    MalformedRecordError,
    UnsupportedError,
    VersionConflictError,
    WrongThreadError,
)

__all__ = ["translated"]

_THEIRS: tuple[tuple[tuple[type[AetherError], ...], type[PersistenceError]], ...] = (
    ((VersionConflictError, DuplicateIdError), IntegrityError),
    ((InvalidEventError, InvalidOptionError, InvalidNamespaceError, EncodingError), DataError),
    ((DecodingError, MalformedRecordError), DataError),
    ((AtomicAppendUnsupportedError, UnsupportedError), NotSupportedError),
    ((ClosedError,), InterfaceError),
    ((WrongThreadError,), ProgrammingError),
)
"""What is not here may succeed when it is done again, or when the server is put right: it is an OperationalError."""


@contextmanager
def translated() -> Iterator[None]:
    """Raise the package's own error for one of this library, which becomes its cause."""
    try:
        yield
    except AetherError as error:
        theirs = next((theirs for ours, theirs in _THEIRS if isinstance(error, ours)), OperationalError)
        raise theirs(str(error)) from error
