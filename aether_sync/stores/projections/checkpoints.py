"""The tables of projections in the user's database: how far each is, and the events that it has set aside.

``aether_projections`` has a row for each projection. Who has changed that row in a transaction keeps all others from
changing it until the transaction ends. Each batch of events begins by changing it, on the condition that owner and
sequence are still what they were. So two instances never apply the same event, whatever they believe of each other.
"""

import json
from collections.abc import Callable
from typing import NamedTuple, Self

from ..._codec.encoding import encode_read
from ...errors import MalformedRecordError, ProjectionMismatchError
from ...events import Event
from ...patterns import SubscriptionFilter
from ..base import StoredEvent
from .base import Database, Link

__all__ = [
    "Checkpoint",
    "DOUBTFUL",
    "Identity",
    "Place",
    "REBUILT",
    "SetAside",
    "advance",
    "beat",
    "claim",
    "doubt",
    "give_up",
    "has_set_aside",
    "hold_place",
    "list_set_aside",
    "lock",
    "prepare",
    "read",
    "remove_set_aside",
    "replace",
    "set_aside",
    "stop",
    "storable",
    "trust",
]

_LAYOUT = 1  # of the two tables

_CHECKPOINTS = (
    "CREATE TABLE IF NOT EXISTS aether_projections (name VARCHAR(200) NOT NULL PRIMARY KEY, layout BIGINT NOT NULL, "
    "stream TEXT NOT NULL, actors TEXT NOT NULL, event_types TEXT NOT NULL, sequence BIGINT NOT NULL, "
    "event_sequence BIGINT NOT NULL, event_id TEXT NOT NULL, owner VARCHAR(64) NOT NULL, beat BIGINT NOT NULL, "
    "stopped VARCHAR(20) NOT NULL, stopped_at BIGINT NOT NULL, reason TEXT NOT NULL)"
)
_SET_ASIDE = (
    "CREATE TABLE IF NOT EXISTS aether_set_aside (projection VARCHAR(200) NOT NULL, sequence BIGINT NOT NULL, "
    "event_id TEXT NOT NULL, actor_id TEXT NOT NULL, event_type TEXT NOT NULL, reason TEXT NOT NULL, "
    "event TEXT NOT NULL, PRIMARY KEY (projection, sequence))"
)
_COLUMNS = "stream, actors, event_types, sequence, event_sequence, event_id, owner, beat, stopped, stopped_at, reason"
DOUBTFUL = "transaction"  #: as :attr:`Checkpoint.stopped`
#: How a transaction is told to wait a moment for a lock, by the dialect; SQLite always does.
_PATIENT = {"postgresql": "SET LOCAL lock_timeout = '2s'"}
#: What a rebuild adds to the beat: more than anybody else does while somebody asks what became of it.
REBUILT = 1_000_000
_MINE = "WHERE name = ? AND owner = ? AND sequence = ?"


class Identity(NamedTuple):
    """What a projection is a projection of.

    Attributes:
        stream: What the store calls the stream of its events.
        actors: The pattern of actor ids; "" for all.
        event_types: The types as a list of JSON, sorted; ``[]`` for all.
    """

    stream: str
    actors: str
    event_types: str

    @classmethod
    def of(cls, stream: str, wanted: SubscriptionFilter) -> Self:
        """Return the identity of a projection of a stream with a filter."""
        return cls(stream, wanted.actor_pattern, json.dumps(sorted(wanted.event_types)))

    def __str__(self) -> str:
        return f"of stream {self.stream!r} with actors={self.actors or None!r}, event_types={self.event_types}"


class Place(NamedTuple):
    """How far a projection is.

    Attributes:
        sequence: Every event up to this sequence has taken effect, or does not concern it.
        event_sequence: The sequence of an event at or before that place, by which the stream is recognised; 0 for none.
        event_id: The id of that event.
    """

    sequence: int = 0
    event_sequence: int = 0
    event_id: str = ""


class Checkpoint(NamedTuple):
    """The row of a projection.

    Attributes:
        identity: What it is a projection of.
        place: How far it is.
        owner: The active instance; "" if there is none.
        beat: Counts what the active instance has done. As long as it does not stand still, that instance lives.
        stopped: Why it has stopped, in one word; "" if it has not: ``"event"`` at an event, ``"stream"`` since the
            stream is another one, ``"transaction"`` since the user's function has ended the transaction.
        stopped_at: The sequence of the event that it has stopped at; 0 for none.
        reason: The same in words.
    """

    identity: Identity
    place: Place
    owner: str = ""
    beat: int = 0
    stopped: str = ""
    stopped_at: int = 0
    reason: str = ""


class SetAside(NamedTuple):
    """An event that a projection has set aside, as ``apply`` could not take it.

    Attributes:
        sequence: Its sequence in the store.
        event_id: Its id; "" if the record is not an event.
        actor_id: The id of its actor.
        event_type: Its type.
        reason: Why it could not be applied.
    """

    sequence: int
    event_id: str
    actor_id: str
    event_type: str
    reason: str


def prepare(link: Link, database: Database, name: str, identity: Identity) -> None:
    """Make the tables and the projection's row if they are not there; two may do so at once.

    Raises:
        ProjectionMismatchError: The tables are those of another version of this library.
    """
    if not _has_tables(link, database):
        _try_to_make(link, database, lambda: _has_tables(link, database), [(_CHECKPOINTS, ()), (_SET_ASIDE, ())])
    if _layout(link, name) is None:
        row = (name, _LAYOUT, *identity, *Place(), "", 0, "", 0, "")
        marks = ", ".join("?" * len(row))
        insert = f"INSERT INTO aether_projections (name, layout, {_COLUMNS}) VALUES ({marks})"
        _try_to_make(link, database, lambda: _layout(link, name) is not None, [(insert, row)])
    layout = _layout(link, name)
    if layout != _LAYOUT:
        raise ProjectionMismatchError(
            f"the table aether_projections in {database} has the layout {layout}, and this version of the library "
            f"knows {_LAYOUT}: use the version that has made it, or a later one"
        )


def _try_to_make(
    link: Link, database: Database, is_there: Callable[[], bool], statements: list[tuple[str, tuple[str | int, ...]]]
) -> None:
    """Run statements in a transaction. They may fail if another instance was first."""
    try:
        link.begin()
        for sql, values in statements:
            link.execute(sql, *values)
        link.commit()
    except Exception as error:
        link.rollback()
        if database.is_passing(error) or not is_there():
            raise


def _has_tables(link: Link, database: Database) -> bool:
    try:
        link.query("SELECT layout FROM aether_projections WHERE name = ''")
        link.query("SELECT reason FROM aether_set_aside WHERE projection = ''")
    except Exception as error:
        if database.is_passing(error):
            raise
        return False
    finally:
        link.rollback()
    return True


def _layout(link: Link, name: str) -> int | None:
    """Return the layout of the tables as the projection's row has it; None if the row is not there."""
    try:
        found = link.query("SELECT layout FROM aether_projections WHERE name = ?", name)
    finally:
        link.rollback()
    return int(found[0][0]) if found else None


def read(link: Link, name: str) -> Checkpoint | None:
    """Return a projection's row; None if it is not there."""
    try:
        return _read(link, name)
    finally:
        link.rollback()


def _read(link: Link, name: str) -> Checkpoint | None:
    found = link.query(f"SELECT {_COLUMNS} FROM aether_projections WHERE name = ?", name)
    if not found:
        return None
    stream, actors, event_types, sequence, event_sequence, event_id, *rest = found[0]
    place = Place(int(sequence), int(event_sequence), event_id)
    return Checkpoint(Identity(stream, actors, event_types), place, *rest)


def claim(link: Link, name: str, seen: Checkpoint, owner: str) -> bool:
    """Become the active instance, unless the row has changed since it was seen.

    The active instance may hang in a transaction, with the row locked. So where that is known how, it is waited for no
    longer than a moment, which an error that passes ends.
    """
    dialect = link.dialect
    return _commit(
        link,
        "UPDATE aether_projections SET owner = ?, beat = beat + 1, stopped = '', stopped_at = 0, reason = '' "
        "WHERE name = ? AND owner = ? AND beat = ?",
        *(owner, name, seen.owner, seen.beat),
        before=_PATIENT.get(dialect, ""),
    )


def hold_place(link: Link, name: str, owner: str, here: Place, reason: str) -> bool:
    """In a transaction, lock the row before any event is applied; False if that is not this instance's to do any more.

    It also writes why the projection must not go on, which :func:`advance` takes back. So if the user's function
    commits the transaction in between, everybody finds that written, even if this process is killed at once.
    """
    changed = link.execute(
        f"UPDATE aether_projections SET beat = beat + 1, stopped = '{DOUBTFUL}', reason = ? {_MINE}",
        *(reason, name, owner, here.sequence),
    )
    return changed == 1


def advance(link: Link, name: str, owner: str, here: Place, there: Place) -> bool:
    """In a transaction, move on from a place to another one; False if that is not this instance's to do any more."""
    changed = link.execute(
        "UPDATE aether_projections SET beat = beat + 1, sequence = ?, event_sequence = ?, event_id = ?, stopped = '', "
        f"reason = '' {_MINE}",
        *(*there, name, owner, here.sequence),
    )
    return changed == 1


def beat(link: Link, name: str, owner: str, here: Place, there: Place) -> bool:
    """Show that this instance lives, and move on over events that do not concern the projection."""
    link.begin()
    try:
        is_done = advance(link, name, owner, here, there)
        link.commit()
    except BaseException:
        link.rollback()
        raise
    return is_done


def give_up(link: Link, name: str, owner: str) -> bool:
    """Be the active instance no more, so that another one may be at once."""
    sql = "UPDATE aether_projections SET owner = '', beat = beat + 1 WHERE name = ? AND owner = ?"
    return _commit(link, sql, name, owner)


def stop(link: Link, name: str, owner: str, stopped: str, stopped_at: int, reason: str) -> bool:
    """Be the active instance no more, and leave the reason for all others to see."""
    return _commit(
        link,
        "UPDATE aether_projections SET owner = '', beat = beat + 1, stopped = ?, stopped_at = ?, reason = ? "
        "WHERE name = ? AND owner = ?",
        *(stopped, stopped_at, storable(reason), name, owner),
    )


def lock(link: Link, name: str) -> Checkpoint | None:
    """In a transaction, keep the active instance from going on until it ends; return the row."""
    if link.execute("UPDATE aether_projections SET beat = beat + 1 WHERE name = ?", name) != 1:
        return None
    return _read(link, name)


def doubt(link: Link, name: str, reason: str) -> None:
    """In a transaction that has locked the row, write that the projection must not go on; :func:`trust` takes it back.

    If the user's function commits the transaction in between, the active instance, too, finds that written.
    """
    link.execute(
        f"UPDATE aether_projections SET owner = '', stopped = '{DOUBTFUL}', reason = ? WHERE name = ?",
        *(storable(reason), name),
    )


def trust(link: Link, name: str, before: Checkpoint) -> None:
    """In the same transaction, take back what :func:`doubt` has written."""
    link.execute(
        "UPDATE aether_projections SET owner = ?, stopped = ?, reason = ? WHERE name = ?",
        *(before.owner, before.stopped, before.reason, name),
    )


def replace(link: Link, name: str, identity: Identity, place: Place) -> None:
    """In a transaction that has locked the row, set what the projection is of and how far it is.

    Nobody owns it then: the active instance begins anew, under another word. What it has announced before is not about
    these rows.
    """
    link.execute(
        "UPDATE aether_projections SET stream = ?, actors = ?, event_types = ?, sequence = ?, event_sequence = ?, "
        f"event_id = ?, owner = '', beat = beat + {REBUILT}, stopped = '', stopped_at = 0, reason = '' WHERE name = ?",
        *(*identity, *place, name),
    )
    link.execute("DELETE FROM aether_set_aside WHERE projection = ?", name)


def _commit(link: Link, sql: str, *values: str | int, before: str = "") -> bool:
    """Run a statement in a transaction of its own, after another one; return whether it has changed a row."""
    link.begin()
    try:
        if before:
            link.execute(before)
        changed = link.execute(sql, *values)
        link.commit()
    except BaseException:
        link.rollback()
        raise
    return changed == 1


# -- events that were set aside


def set_aside(link: Link, name: str, found: StoredEvent | MalformedRecordError, reason: str) -> None:
    """In a transaction, keep an event that could not be applied."""
    if isinstance(found, StoredEvent):
        event = found.event
        about = event.id, event.actor_id, event.event_type, reason, _written(event)
    else:
        about = "", "", "", reason, ""
    columns = "projection, sequence, event_id, actor_id, event_type, reason, event"
    insert = f"INSERT INTO aether_set_aside ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)"
    link.execute(insert, name, found.sequence, *map(storable, about))


def _written(event: Event) -> str:
    """Return an event as JSON; "" if the user's function has put something into it that JSON does not have."""
    try:
        return encode_read(event).decode()
    except Exception:
        return ""


def storable(text: str) -> str:
    """Return a text that every database takes: PostgreSQL takes no zero byte, and none takes half a surrogate pair."""
    return text.replace("\0", "\\0").encode(errors="backslashreplace").decode()


def list_set_aside(link: Link, name: str) -> list[SetAside]:
    """Return the events that a projection has set aside, in order."""
    sql = "SELECT sequence, event_id, actor_id, event_type, reason FROM aether_set_aside WHERE projection = ?"
    try:
        return [SetAside(int(place), *rest) for place, *rest in link.query(f"{sql} ORDER BY sequence", name)]
    finally:
        link.rollback()


def has_set_aside(link: Link, name: str, sequence: int) -> bool:
    """In a transaction, return whether an event is set aside."""
    sql = "SELECT sequence FROM aether_set_aside WHERE projection = ? AND sequence = ?"
    return bool(link.query(sql, name, sequence))


def remove_set_aside(link: Link, name: str, sequence: int) -> bool:
    """In a transaction, forget an event that was set aside; False if it was not there."""
    sql = "DELETE FROM aether_set_aside WHERE projection = ? AND sequence = ?"
    return link.execute(sql, name, sequence) == 1
