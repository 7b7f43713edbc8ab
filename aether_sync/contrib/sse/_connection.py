"""The connection of a stream's client, where the web server tells which it is.

A threaded server hands a chunk to the kernel by a call that has no time-out. If the client takes nothing, or is gone
without a word, that call holds a thread: for ever, or for the quarter of an hour in which Linux sends again what nobody
confirms. So a stream asks the kernel for an earlier end, by options of the socket, and hangs up when the process ends.
"""

import socket
import struct
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final

__all__ = ["PATIENCE", "current_socket", "hang_up", "limit"]

PATIENCE: Final = 30.0
"""Seconds that a client may take nothing, while something waits for it."""

#: The socket of the request that this thread works on, if the web server tells it.
current_socket: ContextVar[socket.socket | None] = ContextVar("aether_sse_socket", default=None)

_USER_TIMEOUT: Any = getattr(socket, "TCP_USER_TIMEOUT", None)  # of Linux: see tcp(7)


def limit(connection: socket.socket | None) -> None:
    """Let the kernel give up a client that takes nothing."""
    if connection is None:
        return
    with suppress(OSError):  # it is closed
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(PATIENCE), 0))
    with suppress(OSError):  # it is not one of TCP
        if _USER_TIMEOUT is not None:
            connection.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, int(PATIENCE * 1_000))


def hang_up(connection: socket.socket | None) -> None:
    """Let a thread that sends to a client send no more, and the web server find the connection closed."""
    if connection is not None:
        with suppress(OSError):  # it is closed
            connection.shutdown(socket.SHUT_RDWR)
