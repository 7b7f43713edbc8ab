"""The way out: how much of what was written is still on this side, and how much may be on the way at once."""

import asyncio
import struct
from contextlib import suppress
from fcntl import ioctl
from termios import TIOCOUTQ

__all__ = ["Window", "on_this_side"]

_LEAST = 64 * 1024  # bytes: what every link is trusted with
_MOST = 2 * 2**20  # bytes: what may be uncertain when a connection breaks; the kernel's buffers alone hold more
_SLICE = 256 * 1024  # bytes per write: beside busy threads, each costs a turn of the interpreter's (5 ms)
_GROWTH = 8  # times what a PING has had before it, at most: a few bytes are through at once on every link


def on_this_side(*transports: asyncio.WriteTransport | None) -> int:
    """How many bytes have not reached the other side's kernel: in transports, one above the other, and in ours.

    Where the kernel does not tell, only what it has not taken counts.
    """
    buffered = queued = 0
    for transport in transports:
        if transport is not None:
            buffered += transport.get_write_buffer_size()
            queued = _unacknowledged(transport)
    return buffered + queued


def _unacknowledged(transport: asyncio.WriteTransport) -> int:
    """Bytes in the kernel that the other side's kernel has not acknowledged."""
    sock = transport.get_extra_info("socket")
    with suppress(OSError, ValueError):  # it is closed; or the system does not answer that of a socket
        if sock is not None:
            return int(struct.unpack("i", ioctl(sock.fileno(), TIOCOUTQ, b"\0" * 4))[0])
    return 0


class Window:
    """How many bytes may be written and unconfirmed: as many as the link carries in a while, for all that it has shown.

    So a PONG comes regularly also over a slow link, and nothing that has to come through waits behind megabytes. It
    begins small, and grows with every PONG as long as they are quick.

    Args:
        while_: Seconds.

    Attributes:
        size: Bytes.
    """

    def __init__(self, while_: float) -> None:
        self._while = while_
        self.size = _LEAST

    @property
    def slice(self) -> int:
        """Bytes for one write."""
        return min(_SLICE, self.size // 2)

    def begin(self) -> None:
        """Another link, of which nothing is known."""
        self.size = _LEAST

    def confirmed(self, size: int, seconds: float) -> None:
        """A PING with so many bytes before it was answered after so many seconds."""
        carried = int(size * self._while / max(seconds, 1e-6))
        if seconds > self._while or (carried := min(carried, size * _GROWTH)) > self.size:
            self.size = max(_LEAST, min(carried, _MOST))
