"""``Outcome``: what became of the rows of a batch, which is then written into the table; and which errors last."""

from dataclasses import dataclass, field

from ..errors import (
    AtomicAppendUnsupportedError,
    DecodingError,
    DuplicateIdError,
    EncodingError,
    InvalidEventError,
    InvalidNamespaceError,
    InvalidOptionError,
    MalformedRecordError,
    VersionConflictError,
)
from .rows import OutboxRow

__all__ = ["LASTING", "Outcome"]

#: Errors that are about the events or the actor, so that trying again does not help. All others pass, as far as a relay
#: knows: also a missing right, which is about all rows, and which somebody may grant.
LASTING = (
    VersionConflictError,
    DuplicateIdError,
    AtomicAppendUnsupportedError,
    MalformedRecordError,
    EncodingError,
    DecodingError,
    InvalidEventError,
    InvalidNamespaceError,
    InvalidOptionError,
)


@dataclass(slots=True)
class Outcome:
    """What became of rows. It is filled while they are sent, and is right at each moment.

    Attributes:
        stored: Rows whose events are in the store.
        published: Rows whose events the bus has confirmed.
        refused: Rows that are to be set aside, and why.
        plans: Versions that are to be written into rows, by their ids.
        trouble: Why the rest is left for later; None if nothing is left.
    """

    stored: list[OutboxRow] = field(default_factory=list)
    published: list[OutboxRow] = field(default_factory=list)
    refused: list[tuple[OutboxRow, Exception]] = field(default_factory=list)
    plans: dict[int, int] = field(default_factory=dict)
    trouble: Exception | None = None

    @property
    def sent(self) -> list[OutboxRow]:
        """Rows that are done."""
        return [*self.stored, *self.published]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.stored or self.published or self.refused or self.plans)
