"""``TurnStream``: whose turn periodic work is, of all processes of a store.

A stream beside that of the events has the last turn of each work, under a subject of its own. A turn is written on the
condition that the one before is still the last, so of several processes that want the next turn one gets it.
"""

import os

import msgspec

from ..._runtime.deadline import Deadline
from ...errors import DeadlineExceededError
from .answers import BusyError, RefusedError, UnknownError
from .api import JetStream
from .messages import Outgoing
from .names import Names, escaped_consumer
from .stream import Stream
from .tries import Pause

__all__ = ["Turn", "TurnStream"]


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """A turn of some work.

    Attributes:
        by: The process that has it.
        begun: When it was begun, in Unix seconds, by the clock of that process.
        has_ended: Whether it has come to its end.
        sequence: The place of this record in the stream; 0 before it is written.
    """

    by: str
    begun: float
    has_ended: bool
    sequence: int = 0


_read = msgspec.json.Decoder(Turn).decode
_NONE = Turn(by="", begun=0.0, has_ended=True)


class TurnStream:
    """The turns of one store. Any thread may call it."""

    def __init__(self, jetstream: JetStream, names: Names, main: Stream) -> None:
        self._jetstream = jetstream
        self._name = f"{names.stream}~turns"
        wanted = {
            "name": self._name,
            "subjects": [f"{self._name}.*"],
            "retention": "limits",
            "discard": "old",
            "storage": "file",
            "allow_direct": True,
            "max_msgs_per_subject": 1,
        }
        self._stream = Stream(jetstream, wanted, main)

    def last(self, work: str, deadline: Deadline) -> Turn:
        """Return the last turn of some work; one that has ended long ago if there was none.

        The stream is made if it is not there.
        """
        self._stream.open(deadline)
        record = self._jetstream.last(self._name, self._subject(work), deadline)
        if record is None:
            return _NONE
        try:
            turn = _read(record.data)
        except msgspec.MsgspecError:  # somebody has written something else there, which the next turn replaces
            turn = _NONE
        return msgspec.structs.replace(turn, sequence=record.sequence)

    def write(self, work: str, turn: Turn, deadline: Deadline) -> Turn | None:
        """Write a turn behind the one with its ``sequence``.

        Returns:
            The turn as it was written; None if another one was written there before.

        Raises:
            DeadlineExceededError: It may be written, or not.
        """
        data, pause, expected = msgspec.json.encode(turn), Pause(deadline), turn.sequence
        while True:
            message = Outgoing(self._subject(work), os.urandom(16).hex(), expected, data)
            try:
                place = self._jetstream.publish(self._name, [message], deadline).seq
            except RefusedError:
                last = self.last(work, deadline)
                if (last.by, last.begun) != (turn.by, turn.begun):
                    return None
                expected = last.sequence  # it is this very turn, of an attempt that the server has not confirmed
            except (BusyError, UnknownError) as error:
                if not pause.take():
                    text = f"the turn of {work!r} is not written within {deadline}: {error}"
                    raise DeadlineExceededError(text) from error
            else:
                return msgspec.structs.replace(turn, sequence=place)

    def _subject(self, work: str) -> str:
        return f"{self._name}.{escaped_consumer(work)}"
