"""Ports of servers that the benchmarks start."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep

__all__ = ["await_listening", "held_port"]

_START = 10.0  # seconds


@contextmanager
def held_port() -> Iterator[int]:
    """Choose a port that nobody is given meanwhile who does not ask for this very one.

    A server may listen on it beside the socket that holds it, which does not, if it sets SO_REUSEADDR as well, as Redis
    and PostgreSQL do.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def await_listening(port: int) -> None:
    """Wait until somebody does."""
    end = monotonic() + _START
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            if monotonic() > end:
                raise
            sleep(0.01)
        else:
            return
