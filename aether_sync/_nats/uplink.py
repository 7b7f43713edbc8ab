"""Bytes on their way to the server: how many are still on this side, and how many may be unconfirmed at once."""

import asyncio
import struct
from contextlib import suppress
from fcntl import ioctl
from termios import TIOCOUTQ

__all__ = ["Window", "on_this_side"]

_LEAST = 64 * 1024  # bytes that every link is trusted with
_MOST = 2 * 2**20  # bytes that may be uncertain when a connection breaks; the kernel's buffers alone hold more
_SLICE = 512 * 1024  # bytes per write; beside busy threads each write may wait 5 ms for the GIL
_GROWTH = 8  # times the bytes before a PING, at most: a few bytes are quick on every link


def on_this_side(*transports: asyncio.WriteTransport | None) -> int:
    """Return how many bytes have not reached the kernel of the other side.

    They are in these transports, which are layers of one connection, or in our kernel. Where the kernel does not tell,
    only the bytes in the transports count.
    """
    buffered = queued = 0
    for transport in transports:
        if transport is not None:
            buffered += transport.get_write_buffer_size()
            queued = _unacknowledged(transport)
    return buffered + queued


def _unacknowledged(transport: asyncio.WriteTransport) -> int:
    """Return how many bytes in our kernel the other one has not acknowledged."""
    sock = transport.get_extra_info("socket")
    with suppress(OSError, ValueError):  # it is closed, or the system does not tell
        if sock is not None:
            return int(struct.unpack("i", ioctl(sock.fileno(), TIOCOUTQ, b"\0" * 4))[0])
    return 0


class Window:
    """How many bytes may be written and unconfirmed: as many as the link has shown that it carries in a while.

    So PONGs come regularly even over a slow link, and nothing waits behind megabytes. The window is small at first, and
    grows with every PONG as long as they are quick.

    Args:
        while_: Seconds.

    Attributes:
        size: The bytes.
    """

    def __init__(self, while_: float) -> None:
        self._while = while_
        self.size = _LEAST

    @property
    def slice(self) -> int:
        """The bytes for one write."""
        return min(_SLICE, self.size // 2)

    def begin(self) -> None:
        """Begin with another connection, of which nothing is known."""
        self.size = _LEAST

    def confirmed(self, size: int, seconds: float) -> None:
        """Note that a PING behind so many bytes was answered after so many seconds."""
        carried = int(size * self._while / max(seconds, 1e-6))
        if seconds > self._while or (carried := min(carried, size * _GROWTH)) > self.size:
            self.size = max(_LEAST, min(carried, _MOST))
