"""The link that tests break, and what only the tests of this library do to it."""

from aether_sync.testing import BrokenLink

__all__ = ["Proxy"]


class Proxy(BrokenLink):
    """Stands between clients and the server on a port of this machine."""

    def __init__(self, port: int, *, host: str = "127.0.0.1", buffer: int = 0) -> None:
        super().__init__(f"nats://{host}:{port}", buffer=buffer)

    def inject(self, data: bytes) -> None:
        """Send bytes to the clients, as if the server had."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.send(link.client, data)
