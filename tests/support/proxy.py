"""A TCP proxy that breaks what goes through it: threads and blocking sockets of the standard library."""

import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Self

from .common import PATIENCE

_SEND_TIMEOUT = struct.pack("ll", 0, 50_000)  # 50 ms: then it is looked whether the link is to be closed
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() throws away what is unsent, and the other side sees a reset


class Proxy:
    """Stands between clients and the server on a port."""

    def __init__(self, port: int, *, host: str = "127.0.0.1", buffer: int = 0) -> None:
        """Listen for clients of a port; with ``buffer``, all kernels hold about so many bytes of each direction."""
        self._target = host, port
        self._buffer = buffer
        self._lock = threading.Condition()  # guards all below
        self._flows = self._answers = True
        self._accepts = True
        self._delay = 0.0
        self._rate = 0.0
        self._links: list[_Link] = []
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._limit(self._listener)  # which what it accepts inherits, in time for what is told the client of it
        self.port = int(self._listener.getsockname()[1])
        self.url = f"nats://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._thread.start()

    # -- what a test does

    def cut(self, *, reset: bool = True) -> None:
        """Break all links, and take no new ones until :meth:`restore`."""
        with self._lock:
            self._accepts = False
        self.drop(reset=reset)

    def drop(self, *, reset: bool = True) -> None:
        """Break the links there are."""
        with self._lock:
            links, self._links = self._links, []
        for link in links:
            link.close(reset=reset)

    def stall(self) -> None:
        """Read nothing more, from either side: their buffers fill. New links are taken, and stall too."""
        self._change(_flows=False)

    def mute(self) -> None:
        """Pass on nothing more that the server says; it hears everything."""
        self._change(_answers=False)

    def delay(self, seconds: float) -> None:
        """Pass each piece (what one ``recv`` gives) on only after this time; that slows a stream down too."""
        self._change(_delay=seconds)

    def throttle(self, bytes_per_second: float) -> None:
        """Pass on no more than this, per link and direction."""
        self._change(_rate=bytes_per_second)

    def restore(self) -> None:
        """Be as good as a cable again; what a stall held back arrives."""
        self._change(_flows=True, _answers=True, _accepts=True, _delay=0.0, _rate=0.0)

    def inject(self, data: bytes) -> None:
        """Send bytes to the clients, as if the server had."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.send(link.client, data)

    @property
    def links(self) -> int:
        """How many links there are."""
        with self._lock:
            return sum(not link.is_closed for link in self._links)

    def _change(self, **fields: object) -> None:
        with self._lock:
            for name, value in fields.items():
                setattr(self, name, value)
            self._lock.notify_all()

    # -- its threads

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                refused = self._closed or not self._accepts
            try:
                if refused:
                    raise ConnectionRefusedError
                server = socket.create_connection(self._target, PATIENCE)
                self._limit(server)
                server.settimeout(None)
            except OSError:
                _end(client, reset=True)
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_TIMEOUT)
            link = _Link(self, client, server)
            with self._lock:
                self._links.append(link)
            link.start()

    def _limit(self, end: socket.socket) -> None:
        if self._buffer:
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                end.setsockopt(socket.SOL_SOCKET, option, self._buffer)

    def take(self, link: "_Link", *, is_answer: bool) -> int:
        """Wait while nothing flows; returns how many bytes may be read next, 0 at the end."""
        with self._lock:
            self._lock.wait_for(
                lambda: (self._flows and (self._answers or not is_answer)) or self._closed or link.is_closed
            )
            if self._closed or link.is_closed:
                return 0
            return max(1, int(self._rate / 50)) if self._rate else 1 << 16

    def dawdle(self, size: int, link: "_Link") -> None:
        """Wait as long as so many bytes have to."""
        with self._lock:
            end = time.monotonic() + self._delay + (size / self._rate if self._rate else 0)
            while (left := end - time.monotonic()) > 0 and (self._delay or self._rate):
                if self._closed or link.is_closed:
                    return
                self._lock.wait(left)

    def close(self) -> None:
        """Break everything, and end all threads."""
        with self._lock:
            self._closed = True
            links = list(self._links)
            self._lock.notify_all()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(PATIENCE)
        for link in links:
            link.close(reset=True)
            link.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Link:
    """Two sockets, and a thread for each direction, the last of which closes them.

    A thread that is about to read or write knows a socket by its number, which would be another's once it is closed.
    """

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self.client, self._server = client, server
        self.is_closed = False
        self._busy = 2  # threads
        self._threads = [
            threading.Thread(target=self._pass, args=ends, name="proxy-link", daemon=True)
            for ends in ((client, server), (server, client))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            is_answer = source is self._server
            while size := self._proxy.take(self, is_answer=is_answer):
                data = source.recv(size)
                if not data:
                    break
                self._proxy.take(self, is_answer=is_answer)  # it may stall by now
                self._proxy.dawdle(len(data), self)
                self.send(sink, data)
        self.close(reset=False)
        with self._proxy._lock:
            self._busy -= 1
            if not self._busy:
                for end in (self.client, self._server):
                    end.close()

    def send(self, sink: socket.socket, data: bytes) -> None:
        left = memoryview(data)
        while left and not self.is_closed:
            with suppress(BlockingIOError):
                left = left[sink.send(left) :]

    def close(self, *, reset: bool) -> None:
        with self._proxy._lock:
            if not self.is_closed:
                self.is_closed = True
                self._proxy._lock.notify_all()
                for end in (self.client, self._server):
                    _end(end, reset=reset)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)


def _end(end: socket.socket, *, reset: bool) -> None:
    """Wake the thread that reads here; the other side sees a reset when it is closed, or the end now."""
    with suppress(OSError):
        if reset:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
