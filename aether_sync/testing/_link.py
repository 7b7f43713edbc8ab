"""``BrokenLink``: a TCP proxy that breaks what goes through it, with threads and blocking sockets."""

import socket
import struct
import threading
from contextlib import suppress
from itertools import count
from math import inf
from urllib.parse import SplitResult, urlsplit

from .._arguments import as_seconds, check_flag, check_int, check_seconds, is_of
from .._runtime.closing import Closeable
from .._runtime.threads import make_thread
from .._values.clock import monotonic
from .._values.shown import short
from ..errors import InvalidOptionError

__all__ = ["BrokenLink"]

_SEND_TIMEOUT = struct.pack("ll", 0, 50_000)  # 50 ms: then it is looked whether the link is to be closed
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() throws away what is unsent, and the other side sees a reset
_PATIENCE = 20.0  # seconds, for what takes milliseconds: a connection on this machine, the end of a thread
_PORT = 4222  # of a server whose URL names none
_numbers = count(1)


class BrokenLink(Closeable):
    """Stands between clients and a server, and breaks the link between them when a test says so.

    It listens as soon as it is made, until :meth:`close` or the end of the ``with`` block. Connect to :attr:`url`
    instead of the server's. Any thread may call any method.

    Args:
        url: The URL of one server. Its user and password stay in the URL of the link. A server with TLS must accept
            that clients reach it as 127.0.0.1.
        buffer: How many bytes the kernel holds of each direction and connection, about, so that a sender notices a
            stalled link soon; 0 leaves it to the kernel, which holds some megabytes.

    Attributes:
        port: The port of 127.0.0.1 where it listens.
        url: Where clients connect.

    Raises:
        InvalidOptionError: The URL is not that of one server, or ``buffer`` is not a number from 0 on.
    """

    def __init__(self, url: str, *, buffer: int = 0) -> None:
        parts, self._target = _checked(url)
        self._buffer = check_int("buffer", buffer, 0)
        self._lock = threading.Condition()  # guards all below
        self._flows = self._answers = True
        self._accepts = True
        self._delay = 0.0
        self._rate = 0.0
        self._links: list[_Link] = []
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._limit(self._listener)  # which what it accepts inherits, in time for what is told the client of it
        self.port: int = int(self._listener.getsockname()[1])
        login, at, _ = parts.netloc.rpartition("@")
        self.url: str = parts._replace(netloc=f"{login}{at}127.0.0.1:{self.port}").geturl()
        self._thread = make_thread(self._accept, name=f"aether-broken-link-{next(_numbers)}")
        self._thread.start()

    # -- what a test does

    def cut(self, *, reset: bool = True) -> None:
        """Break all connections, and refuse new ones until :meth:`restore`.

        Args:
            reset: Whether the two sides see a reset, as of a crash; otherwise they see an orderly end.
        """
        check_flag("reset", reset)
        with self._lock:
            self._accepts = False
        self.drop(reset=reset)

    def drop(self, *, reset: bool = True) -> None:
        """Break the connections there are. New ones are accepted.

        Args:
            reset: As for :meth:`cut`.
        """
        check_flag("reset", reset)
        with self._lock:
            links, self._links = self._links, []
        for link in links:
            link.close(reset=reset)

    def stall(self) -> None:
        """Read nothing more, from either side: connections stay open, and nothing arrives. New ones stall too."""
        self._change(_flows=False)

    def mute(self) -> None:
        """Pass on nothing more that the server says, which still hears everything: it acts, and no answer comes."""
        self._change(_answers=False)

    def slow_down(self, *, delay: float | None = None, bytes_per_second: float | None = None) -> None:
        """Pass everything on later, in both directions.

        Args:
            delay: Seconds by which each piece (what one read gives) comes later, which slows a stream down too. None
                for no delay.
            bytes_per_second: How much each connection passes on in each direction. None for no limit.

        Raises:
            InvalidOptionError: One is not a number above 0, or none is given.
        """
        if delay is None and bytes_per_second is None:
            raise InvalidOptionError("slow_down() takes a delay in seconds, or bytes_per_second, or both")
        wait = 0.0 if delay is None else check_seconds("delay", delay)
        self._change(_delay=wait, _rate=0.0 if bytes_per_second is None else _checked_rate(bytes_per_second))

    def restore(self) -> None:
        """Be as good as a cable again. What a stall held back arrives now; what was cut has to connect again."""
        self._change(_flows=True, _answers=True, _accepts=True, _delay=0.0, _rate=0.0)

    @property
    def links(self) -> int:
        """How many connections go through it."""
        with self._lock:
            return sum(not link.is_closed for link in self._links)

    def close(self) -> None:
        """Break everything, and listen no more."""
        with self._lock:
            self._closed = True
            links = list(self._links)
            self._lock.notify_all()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(_PATIENCE)
        for link in links:
            link.close(reset=True)
            link.join()

    def __repr__(self) -> str:
        host, port = self._target
        return f"<BrokenLink to {host}:{port}{' closed' if self._closed else ''}>"

    # -- its threads

    def _change(self, **fields: object) -> None:
        with self._lock:
            for name, value in fields.items():
                setattr(self, name, value)
            self._lock.notify_all()

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
                server = socket.create_connection(self._target, _PATIENCE)
                self._limit(server)
                server.settimeout(None)
            except OSError:
                _end(client, reset=True)
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_TIMEOUT)
            link = _Link(self, self._thread.name, client, server)
            with self._lock:
                self._links.append(link)
            link.start()

    def _limit(self, end: socket.socket) -> None:
        if self._buffer:
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                end.setsockopt(socket.SOL_SOCKET, option, self._buffer)

    def _take(self, link: "_Link", *, is_answer: bool) -> int:
        """Wait while nothing flows; returns how many bytes may be read next, 0 at the end."""
        with self._lock:
            self._lock.wait_for(
                lambda: (self._flows and (self._answers or not is_answer)) or self._closed or link.is_closed
            )
            if self._closed or link.is_closed:
                return 0
            return max(1, int(self._rate / 50)) if self._rate else 1 << 16

    def _dawdle(self, size: int, link: "_Link") -> None:
        """Wait as long as so many bytes have to."""
        with self._lock:
            end = monotonic() + self._delay + (size / self._rate if self._rate else 0)
            while (left := end - monotonic()) > 0 and (self._delay or self._rate):
                if self._closed or link.is_closed:
                    return
                self._lock.wait(left)


def _checked(url: object) -> tuple[SplitResult, tuple[str, int]]:
    """Return the parts of a URL, and the address of its server."""
    if is_of(url, str):
        text = str.__str__(url)
        try:
            parts = urlsplit(text if "://" in text else f"nats://{text}")
            if parts.hostname and "," not in text:
                return parts, (parts.hostname, parts.port or _PORT)
        except ValueError:  # a port that is no number, or brackets around no address
            pass
        shown = text.rpartition("@")[2]  # without a password
        raise InvalidOptionError(
            f"url must be the URL of one server such as 'nats://127.0.0.1:4222', not {short(shown)}"
        )
    raise InvalidOptionError(f"url must be a str such as 'nats://127.0.0.1:4222', not {short(url)}")


def _checked_rate(value: object) -> float:
    rate = as_seconds(value)  # any real number
    if rate is None or not 0 < rate < inf:
        raise InvalidOptionError(f"bytes_per_second must be a number above 0, not {short(value)}")
    return rate


class _Link:
    """Two sockets, and a thread for each direction, the last of which closes them.

    A thread that is about to read or write knows a socket by its number, which would be another's once it is closed.
    """

    def __init__(self, broken: BrokenLink, name: str, client: socket.socket, server: socket.socket) -> None:
        self._broken = broken
        self.client, self._server = client, server
        self.is_closed = False  # guarded by the lock of the link
        self._busy = 2  # threads; guarded likewise
        self._threads = [
            make_thread(self._pass, *ends, name=f"{name}-{there}")
            for there, ends in (("out", (client, server)), ("in", (server, client)))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            is_answer = source is self._server
            while size := self._broken._take(self, is_answer=is_answer):
                data = source.recv(size)
                if not data:
                    break
                self._broken._take(self, is_answer=is_answer)  # it may stall by now
                self._broken._dawdle(len(data), self)
                self.send(sink, data)
        self.close(reset=False)
        with self._broken._lock:
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
        with self._broken._lock:
            if not self.is_closed:
                self.is_closed = True
                self._broken._lock.notify_all()
                for end in (self.client, self._server):
                    _end(end, reset=reset)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(_PATIENCE)


def _end(end: socket.socket, *, reset: bool) -> None:
    """Wake the thread that reads here; the other side sees a reset when it is closed, or the end now."""
    with suppress(OSError):
        if reset:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
