"""The shortcut: a small event that comes alone is written to the socket by the thread that publishes it.

To wake the loop for it takes about as long as a server takes to pass it on. Many events are better off in batches, so
this way is for those that come when nothing is waiting to be sent and nothing was published a moment before. The loop
hears of them afterwards, and accounts for them.

Who writes holds the lock, the loop too; while the transport has something left to send, only the transport does. Only
the loop asks it for that: from 3.12 on asyncio takes off its list what it has sent a part of, and puts the rest back.
TLS is asyncio's business: there is no shortcut then.

A handler may publish, or close, right before the system call. So the look whether the way is free, the call, and the
note of what it wrote are one step in C. The file is a duplicate of our own: a transport whose connection is reset
closes the socket by itself, and its number may be another one's by then.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from .._runtime.fork import OwnFile, let_go
from .._runtime.locks import signal_safe_lock, tries
from .._values.clock import monotonic

__all__ = ["LARGEST_CARRIED", "Shortcut", "duplicate"]

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
        file: The number of what is written to; -1 if there is no shortcut, or no more.
        written: Bytes of the frames that were carried, ever.
    """

    def __init__(self, transport: asyncio.WriteTransport, told: Callable[[], object]) -> None:
        self.lock = signal_safe_lock()
        self._tries = tries(self.lock)
        self.expected = False
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._told = told
        self.file = duplicate(transport)
        self._own = OwnFile.of(self.file) if self.file >= 0 else None
        self._way: list[int] = []  # that file, while nothing is in its way
        # Frames that are not accounted for: each with how much of it is written, and whether it is an event.
        self._carried: deque[tuple[bytes, int, bool]] = deque()
        self._last = 0.0  # when somebody asked
        self.written = 0
        self._clear_way()

    def carry(self, frame: bytes, is_event: bool = True) -> bool:
        """Write a frame, if it is small, alone, and nothing is in its way; returns whether it did. Any thread.

        What is no event need not be alone, and is not accounted for: somebody waits for the answer.
        """
        if len(frame) > LARGEST_CARRIED or (is_event and not self._is_alone()):
            return False
        tell, mine = False, False
        try:
            for mine in self._tries:  # nobody waits who publishes: see _waiting
                break
            if not mine or self._transport.is_closing() or self._rest() or len(self._carried) >= _UNTOLD:
                return False
            written = map(os.write, self._way, to_write := iter((frame,)))
            try:
                self._carried.extend(zip((frame,), written, (is_event,), strict=False))
            except OSError:  # the socket is full, or broken, as the loop will notice
                return False
            if list(to_write):  # the way is not free
                return False
            self.written += len(frame)
            rest = self._rest()
            if rest:
                self._way.clear()
            elif not is_event:
                with suppress(IndexError):  # a handler's close() has accounted for it
                    self._carried.pop()
            tell = bool(rest) or (is_event and not self.expected)
        finally:
            if mine:
                self.lock.release()
        if tell:
            with suppress(RuntimeError):  # the loop is closed, and has given up what was in flight
                self._loop.call_soon_threadsafe(self._told)
        return True

    def _is_alone(self) -> bool:
        now = monotonic()
        since, self._last = now - self._last, now
        return since >= _ALONE

    def _rest(self) -> bytes:
        """What the socket did not take of the last frame."""
        try:
            frame, written, _ = self._carried[-1]
        except IndexError:
            return b""
        return frame[written:]

    # -- the loop thread

    def write(self, data: bytes) -> None:
        """Write behind all that was written before."""
        with self.lock:
            rest = self._rest()
            if rest:
                frame, _, is_event = self._carried[-1]
                self._carried[-1] = frame, len(frame), is_event
            if (rest or data) and not self._transport.is_closing():
                self._transport.write(rest + data)
            self._clear_way()
        if self.file >= 0 and not self._way:  # uvloop writes at the end of this turn
            self._loop.call_soon(self._clear_way)

    def _clear_way(self) -> None:
        """Open the way, or close it while the transport has more to send."""
        with self.lock:
            is_free = self.file >= 0 and not (self._rest() or self._transport.get_write_buffer_size())
            self._way[:] = [self.file] if is_free else []

    def account(self) -> list[int]:
        """Return the bytes of each frame that was carried since the last time; see that they are written to the end.

        The server may have answered them already, though their publishers are still on their way back.
        """
        with self.lock:
            self.write(b"")
            carried = [self._carried.popleft() for _ in range(len(self._carried))]
        return [len(frame) for frame, _, is_event in carried if is_event]

    def close(self) -> None:
        """Nobody writes here any more but the loop."""
        with self.lock:
            self.file = -1
            self._way.clear()
            own, self._own = self._own, None
            if own is not None and own.is_ours:
                os.close(own.number)

    def disown(self) -> None:
        """In a forked child: let go of the file, and forget it."""
        own, self._own, self.file = self._own, None, -1
        self._way.clear()
        if own is not None:
            let_go([own])


def duplicate(transport: asyncio.WriteTransport) -> int:
    """Give a plain connection's file a number of our own; -1 if there is none."""
    if transport.get_extra_info("ssl_object") is None:
        with suppress(OSError):  # there may be no more files
            return os.dup(transport.get_extra_info("socket").fileno())
    return -1
