"""What the supervisor and a process tell each other, as JSON lines over a pair of sockets.

The pair is also how each knows that the other one lives: a process whose supervisor is gone, however that ended, reads
the end of the stream.
"""

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import msgspec

from ...health import Health

__all__ = [
    "MARGIN",
    "Answer",
    "Ask",
    "Channel",
    "Failed",
    "FromProcess",
    "Left",
    "Program",
    "Ready",
    "Stop",
    "ToProcess",
]

#: The signals that end the supervisor, and each process. A terminal sends two of them to all.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

#: Exit statuses: the worker failed; and as of ``worker.run()``, something was left undone.
FAILED, LEFT = 1, 3

#: Seconds that a process has after the grace, to close what is left and to end. It ends by force then; if it cannot, it
#: is killed as many seconds later.
MARGIN = 2.0

_AT_ONCE = 65_536  # bytes that are read at a time


class Program(msgspec.Struct, frozen=True):
    """What each process runs.

    Attributes:
        where: The worker, as ``module:name``.
        threads: How many threads the handler of each consumer has; 0 for as many as the program says.
        grace: Seconds for the handlers that run at the end.
        shows_metrics: Whether the metrics of the worker are shown.
    """

    where: str
    threads: int
    grace: float
    shows_metrics: bool


class Ask(msgspec.Struct, tag=True, frozen=True):
    """A question for the health of the worker; the answer has the same number. ``timeout`` is in seconds."""

    number: int
    timeout: float


class Stop(msgspec.Struct, tag=True, frozen=True):
    """The process is to end: what runs has the grace, or no time at all."""

    at_once: bool = False


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The worker has started."""


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The worker could not be made, could not start, or has ended by an error.

    Attributes:
        reason: Why, as a sentence for the user.
        trace: The traceback of the user's own code, or "".
        is_usage: Whether only a change of the program can mend it.
    """

    reason: str
    trace: str = ""
    is_usage: bool = False


class Left(msgspec.Struct, tag=True, frozen=True):
    """The worker did not come to its end within the grace: what it left undone, in words."""

    text: str


class Answer(msgspec.Struct, tag=True, frozen=True):
    """The health of the worker."""

    number: int
    health: Health


ToProcess = Ask | Stop
FromProcess = Ready | Failed | Left | Answer

_to_process = msgspec.json.Decoder(ToProcess)
_from_process = msgspec.json.Decoder(FromProcess)


class Channel:
    """One end of the pair. Any thread may send; one thread receives."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()  # held while a message is written, so that none stands within another
        self._rest = b""  # the begin of a line
        self.has_ended = False  # whether the other end is closed

    def fileno(self) -> int:
        """Return the number of the socket, which can be read when a message or the end has come; -1 once closed."""
        return self._sock.fileno()

    def send(self, message: ToProcess | FromProcess) -> None:
        """Send a message, if the other end is there."""
        line = msgspec.json.encode(message) + b"\n"
        with self._lock, suppress(OSError):
            self._sock.sendall(line)

    def received_by_process(self) -> Iterator[ToProcess]:
        """Wait for messages, and yield each, until the supervisor is gone."""
        while (lines := self._read()) is not None:
            yield from map(_to_process.decode, lines)

    def received_by_supervisor(self) -> list[FromProcess]:
        """Return the messages that have come, without a wait."""
        found: list[FromProcess] = []
        with suppress(BlockingIOError):
            while (lines := self._read(socket.MSG_DONTWAIT)) is not None:
                found.extend(map(_from_process.decode, lines))
        return found

    def _read(self, flags: int = 0) -> list[bytes] | None:
        """Return the whole lines that have come; None at the end of the stream."""
        try:
            chunk = self._sock.recv(_AT_ONCE, flags)
        except BlockingIOError:
            raise
        except OSError:  # the other end was killed, or code of the user's has closed files that are not its own
            chunk = b""
        if not chunk:
            self.has_ended = True
            return None
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return lines

    def close(self) -> None:
        """Close this end."""
        with self._lock:
            self._sock.close()
