"""Ports of servers that the benchmarks start."""

import socket
from time import monotonic, sleep

__all__ = ["await_listening", "free_port"]

_START = 10.0  # seconds


def free_port() -> int:
    """Choose a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


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
