"""``HandledOnce``: a handler whose effect and whose note that an event is handled are one transaction.

The note is a row of the table ``aether_handled`` in the user's database. It is written before the handler is called, so
that of two processes which have the same event one waits for the other, and then finds the note.
"""

from collections.abc import Callable
from contextlib import suppress
from threading import local
from time import sleep
from typing import Any

from .._arguments import refuse_unrun
from .._runtime.deadline import Deadline
from .._values.shown import short
from ..errors import WorkerError
from ..stores.consumers.delivery import Delivery
from ..stores.projections.base import BrokenTransactionError, Database, Link

__all__ = ["HandledOnce"]

_TABLE = (
    "CREATE TABLE IF NOT EXISTS aether_handled (consumer VARCHAR(200) NOT NULL, stream VARCHAR(200) NOT NULL, "
    "sequence BIGINT NOT NULL, event_id TEXT NOT NULL, PRIMARY KEY (consumer, stream, sequence))"
)
_LOOK = "SELECT event_id FROM aether_handled WHERE consumer = ? AND stream = ? AND sequence = ?"
_NOTE = "INSERT INTO aether_handled (consumer, stream, sequence, event_id) VALUES (?, ?, ?, ?)"
_PATIENCE = 10.0  # seconds in which a database that is busy, or away, costs no attempt
_PAUSE = 0.05  # seconds


class HandledOnce:
    """Calls a handler with each event that has no note. Several threads call it; each has a connection of its own.

    Args:
        database: The user's.
        call: Calls the handler with the database and a delivery.
        repeated: Counts an event that has a note.
    """

    def __init__(
        self, database: Database, call: Callable[[Any, Delivery], object], repeated: Callable[[], object]
    ) -> None:
        self._database = database
        self._call = call
        self._repeated = repeated
        self._own = local()  # its ``link`` is the connection of this thread

    def __call__(self, delivery: Delivery) -> None:
        """Call the handler, unless the event is handled already."""
        try:
            link = self._begin(delivery)
            if link is None:
                self._repeated()
                return
            with link.hold():
                refuse_unrun(self._call(link.db, delivery))
            link.commit()
        except BrokenTransactionError as error:
            self.disconnect()
            reason = f"the handler must neither commit nor roll back the transaction that it is called in: {error}"
            if not error.is_lost:  # tried again, the event would have its note, and what was not done yet be left out
                delivery.reject(reason)
            raise WorkerError(reason) from error
        except BaseException:
            self.disconnect()
            raise
        else:
            return

    def _begin(self, delivery: Delivery) -> Link | None:
        """Begin a transaction, and note the event in it; None if there is a note already."""
        deadline = Deadline(_PATIENCE)
        while True:
            try:
                return self._try_to_begin(delivery)
            except Exception as error:
                self.disconnect()
                if not (self._database.is_passing(error) and deadline.remaining()):
                    raise
            sleep(_PAUSE)

    def _try_to_begin(self, delivery: Delivery) -> Link | None:
        link = self._link()
        link.begin()
        if self._is_noted(link, delivery):
            link.rollback()
            return None
        place = delivery.consumer, delivery.stream, delivery.sequence
        try:
            link.execute(_NOTE, *place, delivery.event.id)
        except Exception as error:
            link.rollback()
            if self._database.is_passing(error) or not self._is_noted(link, delivery):
                raise
            link.rollback()
            return None  # another process was handling it
        return link

    def _is_noted(self, link: Link, delivery: Delivery) -> bool:
        found = link.query(_LOOK, delivery.consumer, delivery.stream, delivery.sequence)
        if found and found[0][0] != delivery.event.id:
            raise WorkerError(
                f"the table aether_handled of {self._database} says that consumer {short(delivery.consumer)} has "
                f"handled event {short(found[0][0])} at sequence {delivery.sequence}, where {short(delivery.event.id)} "
                f"is now: the stream was made anew. Delete the rows of this consumer and stream there"
            )
        return bool(found)

    # -- connections

    def _link(self) -> Link:
        link: Link | None = getattr(self._own, "link", None)
        if link is None:
            link = self._database.connect()
            self._own.link = link
            self._prepare(link)
        return link

    def _prepare(self, link: Link) -> None:
        """Make the table if it is not there; several may do so at once."""
        if self._has_table(link):
            return
        try:
            link.begin()
            link.execute(_TABLE)
            link.commit()
        except Exception as error:
            link.rollback()
            if self._database.is_passing(error) or not self._has_table(link):
                raise

    def _has_table(self, link: Link) -> bool:
        try:
            link.query(_LOOK, "", "", 0)
        except Exception as error:
            if self._database.is_passing(error):
                raise
            return False
        finally:
            link.rollback()
        return True

    def disconnect(self) -> None:
        """Close the connection of this thread, and with it a transaction that is open; the next call opens another."""
        link: Link | None = getattr(self._own, "link", None)
        self._own.link = None
        if link is not None:
            with suppress(Exception):  # it is lost
                link.rollback()
            with suppress(Exception):
                link.close()
