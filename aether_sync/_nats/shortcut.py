"""The shortcut: a small event that comes alone is written to the socket by the thread that publishes it.

To wake the loop for it takes about as long as a server takes to pass it on. Many events are better off in batches, so
this way is for those that come when nothing is waiting to be sent and nothing was published a moment before. The loop
hears of them afterwards, and accounts for them.

Who writes holds the lock, the loop too; while the transport has something left to send, only the transport does. TLS is
asyncio's business: there is no shortcut then. The system call, and the note of what it wrote, are one step in C, so
that no signal handler comes in between.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from .._waiting import guard

__all__ = ["LARGEST_CARRIED", "Shortcut"]

LARGEST_CARRIED = 4_096  #: bytes of a frame: what the socket takes at once
_UNTOLD = 64  # frames that the loop has not yet accounted for
_ALONE = 0.0001  # seconds since the event before: a system call for each costs little at that pace


class Shortcut:
    """The way of one connection from any thread to its socket, past the loop.

    Args:
        transport: The connection's, of asyncio or uvloop.
        told: Called on the loop thread when there is something to :meth:`account` for, unless that is expected anyway.

    Attributes:
        lock: Held by whoever writes; it guards the fields below.
        expected: Set by the loop while it is going to look for itself.
    """

    def __init__(self, transport: asyncio.WriteTransport, told: Callable[[], object]) -> None:
        self.lock = guard()
        self.expected = False
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._told = told
        encrypted = transport.get_extra_info("ssl_object") is not None
        self._file = -1 if encrypted else transport.get_extra_info("socket").fileno()  # until the connection ends
        self._carried: deque[tuple[bytes, int]] = deque()  # frames not accounted for, and how much of each is written
        self._last = 0.0  # when somebody asked

    def carry(self, frame: bytes) -> bool:
        """Write a frame, if it is small, alone, and nothing is in its way; returns whether it did. Any thread."""
        now = monotonic()
        if now - self._last < _ALONE or len(frame) > LARGEST_CARRIED:
            self._last = now
            return False
        self._last = now
        with self.lock:
            if self._file < 0 or self._transport.is_closing() or self._transport.get_write_buffer_size():
                return False
            if self._rest() or len(self._carried) >= _UNTOLD:
                return False
            try:
                self._carried.extend(zip((frame,), map(os.write, (self._file,), (frame,)), strict=False))
            except OSError:  # the socket is full, or broken, as the loop will notice
                return False
            tell = self._rest() or not self.expected
        if tell:
            with suppress(RuntimeError):  # the loop is closed, and has given up what was in flight
                self._loop.call_soon_threadsafe(self._told)
        return True

    def _rest(self) -> bytes:
        """What the socket did not take of the last frame."""
        if not self._carried:
            return b""
        frame, written = self._carried[-1]
        return frame[written:]

    # -- the loop thread

    def write(self, data: bytes) -> None:
        """Write behind all that was written before."""
        with self.lock:
            rest = self._rest()
            if rest:
                frame, _ = self._carried[-1]
                self._carried[-1] = frame, len(frame)
            if (rest or data) and not self._transport.is_closing():
                self._transport.write(rest + data)

    def account(self) -> list[int]:
        """Return the bytes of each frame that was carried since the last time; see that they are written to the end.

        The server may have answered them already, though their publishers are still on their way back.
        """
        with self.lock:
            self.write(b"")
            return [len(self._carried.popleft()[0]) for _ in range(len(self._carried))]

    def close(self) -> None:
        """Nobody writes here any more but the loop."""
        with self.lock:
            self._file = -1
