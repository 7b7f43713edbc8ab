"""The outbox: events that are written in a transaction, and sent to the store or the bus when it has committed.

``manage.py aether_relay`` sends them, or the thread of :func:`relay`.
"""

from django.db import DEFAULT_DB_ALIAS, connections, router, transaction
from django.db.transaction import TransactionManagementError

from ...events import Event
from ...outbox.relay import Relay, wake_relays
from ...outbox.rows import NewRow, row_to_append, row_to_publish
from ...stores.base import ANY_VERSION, AnyVersion
from ._connections import get_bus, get_store
from ._settings import DEFAULT

__all__ = ["append", "publish", "relay"]


def append(
    actor_id: str,
    *events: Event | object,
    expected_version: int | AnyVersion = ANY_VERSION,
    using: str | None = None,
) -> tuple[Event, ...]:
    """Write events that are to be stored after the commit: each exactly once, in the order of their actor's calls.

    Args:
        actor_id: The actor.
        *events: The events, without versions; also objects of registered classes, if ``AETHER`` has ``TYPES``.
        expected_version: The version that the actor must have when they are stored; ``NO_EVENTS`` (0) if it must have
            none; by default whatever it has. If it has another one, the row is set aside, and the admin shows it. The
            commit has long been done then, so do not decide on it.
        using: The alias of the database; None for the one that the routers choose.

    Returns:
        The events as they are to be stored, without their versions.

    Raises:
        TransactionManagementError: There is no transaction.
        InvalidEventError: An event is none, has a version, or another actor.
        EncodingError: The data of an event cannot be written as JSON.
        InvalidOptionError: Another argument is wrong.
    """
    row, made = row_to_append(actor_id, events, expected_version, get_store().types)
    _write("append", row, using)
    return made


def publish(namespace: str, *events: Event, using: str | None = None) -> tuple[Event, ...]:
    """Write events that are to be published after the commit: each at least once, in the order of these calls.

    Args:
        namespace: Where they are published.
        *events: The events.
        using: As for :func:`append`.

    Returns:
        The events as they are to be published.

    Raises:
        InvalidNamespaceError: The namespace is none, or has a wildcard. Also the errors of :func:`append`.
    """
    row, made = row_to_publish(namespace, events)
    _write("publish", row, using)
    return made


def _write(call: str, row: NewRow, using: str | None) -> None:
    from ._outbox_table import write_row  # models are there only when Django is set up
    from .models import OutboxEvent

    using = router.db_for_write(OutboxEvent) if using is None else using
    if not connections[using].in_atomic_block:
        raise TransactionManagementError(
            f"outbox.{call}() cannot be used outside of a transaction: without one, the event would be sent whatever "
            f"becomes of the rest. Call it within transaction.atomic(using={using!r})"
        )
    write_row(row, using)
    transaction.on_commit(wake_relays, using=using, robust=True)


def relay(alias: str = DEFAULT, *, using: str = DEFAULT_DB_ALIAS, poll: float = 0.25, batch: int = 500) -> Relay:
    """Return a relay, which sends what is in the outbox of a database to a store and a bus: start it, or run it.

    Any number of relays may run, in any processes. With PostgreSQL, MySQL and MariaDB they share the work; with SQLite
    one works, and the others stand by.

    Args:
        alias: That of the store and bus, in the setting ``AETHER``: the same for all relays of a database.
        using: The alias of the database.
        poll: Seconds between two looks for new rows; as for :class:`Relay`.
        batch: How many rows are taken at once; as for :class:`Relay`.

    Raises:
        InvalidOptionError: An argument is wrong.
    """
    from ._outbox_table import DjangoOutbox

    return Relay(DjangoOutbox(using), store=get_store(alias), bus=get_bus(alias), poll=poll, batch=batch)
