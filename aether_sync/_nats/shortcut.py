"""The shortcut: a small event that comes alone is written to the socket by the thread that publishes it.

Waking the loop takes about as long as a server takes to pass an event on. Many events are faster in batches, so the
shortcut is only for an event that is published while nothing waits to be sent, and nothing was published a moment
before. The loop is told afterwards, and accounts for it.

Every thread that writes holds the lock, also the loop. While the transport has something left to send, only the
transport writes. Only the loop asks the transport whether it has: from Python 3.12 on asyncio takes a chunk off its
list while it sends a part of it, and puts the rest back. There is no shortcut with TLS, which asyncio has to encrypt.

A signal handler may publish, or close, right before the system call. So the check whether the way is free, the call,
and the note of what it wrote are one step in C. The file is a duplicate: a transport whose connection is reset closes
its socket, and then the number may already belong to another file.
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

LARGEST_CARRIED = 4_096  #: bytes of a frame, which a socket usually takes at once
_UNACCOUNTED = 64  # frames that the loop has not accounted for yet, at most
_ALONE = 0.0001  # seconds since the event before; at that pace a system call for each event costs little


class Shortcut:
    """The way of one connection from any thread to its socket, past the loop.

    Args:
        transport: The transport of the connection, of asyncio or uvloop.
        carried: Called on the loop thread when there is something to :meth:`account` for, unless that is expected.

    Attributes:
        lock: Held by every thread that writes; it guards the fields below.
        is_mine: Tells whether this thread is writing. Then it is a signal handler, or a finalizer, that asks.
        expected: Set by the loop while it will account for the frames anyway.
        file: The number of the file that is written to; -1 if there is no shortcut, or not any more.
        written: Bytes of the frames that were ever carried.
    """

    def __init__(self, transport: asyncio.WriteTransport, carried: Callable[[], object]) -> None:
        self.lock = signal_safe_lock()
        self.is_mine: Callable[[], bool] = self.lock._is_owned  # type: ignore[attr-defined]
        self._tries = tries(self.lock)
        self.expected = False
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._on_carried = carried
        self.file = duplicate(transport)
        self._own = OwnFile.of(self.file) if self.file >= 0 else None
        self._way: list[int] = []  # that file, as long as the transport has nothing to send
        # Frames that are not accounted for, each with how many of its bytes are written, and whether it is an event.
        self._carried: deque[tuple[bytes, int, bool]] = deque()
        self._last = 0.0  # when an event was last offered
        self.written = 0
        self._clear_way()

    def carry(self, frame: bytes, is_event: bool = True) -> bool:
        """Write a frame if it is small and alone, and the way is free; returns whether it did so. Any thread.

        A frame that is not an event need not be alone, and is not accounted for: somebody waits for its answer.
        """
        if len(frame) > LARGEST_CARRIED or (is_event and not self._is_alone()):
            return False
        tell, mine = False, False
        try:
            for mine in self._tries:  # without waiting: see locks.tries
                break
            if not mine or self._transport.is_closing() or self._rest() or len(self._carried) >= _UNACCOUNTED:
                return False
            written = map(os.write, self._way, to_write := iter((frame,)))
            try:
                self._carried.extend(zip((frame,), written, (is_event,), strict=False))
            except OSError:  # the socket is full, or broken, as the loop will notice
                return False
            if list(to_write):  # nothing was written: the way is not free
                return False
            self.written += len(frame)
            rest = self._rest()
            if rest:
                self._way.clear()
            elif not is_event:
                with suppress(IndexError):  # a close() in a signal handler has accounted for it
                    self._carried.pop()
            tell = bool(rest) or (is_event and not self.expected)
        finally:
            if mine:
                self.lock.release()
        if tell:
            with suppress(RuntimeError):  # the loop is closed, and what was in flight is uncertain
                self._loop.call_soon_threadsafe(self._on_carried)
        return True

    def _is_alone(self) -> bool:
        now = monotonic()
        since, self._last = now - self._last, now
        return since >= _ALONE

    def _rest(self) -> bytes:
        """Return the bytes of the last frame that the socket did not take."""
        try:
            frame, written, _ = self._carried[-1]
        except IndexError:
            return b""
        return frame[written:]

    # -- the loop thread

    def write(self, data: bytes) -> None:
        """Write behind everything that was written before."""
        with self.lock:
            rest = self._rest()
            if rest:
                frame, _, is_event = self._carried[-1]
                self._carried[-1] = frame, len(frame), is_event
            if (rest or data) and not self._transport.is_closing():
                self._transport.write(rest + data)
            self._clear_way()
        if self.file >= 0 and not self._way:  # uvloop writes at the end of this turn of the loop
            self._loop.call_soon(self._clear_way)

    def _clear_way(self) -> None:
        """Open the way, or close it while the transport has more to send."""
        with self.lock:
            is_free = self.file >= 0 and not (self._rest() or self._transport.get_write_buffer_size())
            self._way[:] = [self.file] if is_free else []

    def account(self) -> list[int]:
        """Return the bytes of each event carried since the last time, and have the rest of the last one written.

        The server may have answered them already, before their publishers have returned.
        """
        with self.lock:
            self.write(b"")
            carried = [self._carried.popleft() for _ in range(len(self._carried))]
        return [len(frame) for frame, _, is_event in carried if is_event]

    def close(self) -> None:
        """End the shortcut: from now on only the loop writes."""
        with self.lock:
            self.file = -1
            self._way.clear()
            own, self._own = self._own, None
            if own is not None and own.is_ours:
                os.close(own.number)

    def disown(self) -> None:
        """In a forked child: release the file."""
        own, self._own, self.file = self._own, None, -1
        self._way.clear()
        if own is not None:
            let_go([own])


def duplicate(transport: asyncio.WriteTransport) -> int:
    """Duplicate the file of a connection without TLS; return -1 if that is not possible."""
    if transport.get_extra_info("ssl_object") is None:
        with suppress(OSError):  # there may be no more files
            return os.dup(transport.get_extra_info("socket").fileno())
    return -1
