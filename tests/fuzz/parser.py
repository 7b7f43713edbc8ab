"""Any bytes from a server, in pieces: the client goes on, or it leaves the connection. It never stops in between."""

import asyncio
import logging
import re

from .run import fuzz, instrumented

with instrumented(__name__):
    from nats.aio.client import Client
    from nats.aio.subscription import Subscription
    from nats.errors import UnexpectedEOF

    from aether_sync._bus.counting import Counters
    from aether_sync._bus.incoming import EventInterest, Incoming
    from aether_sync._bus.routing import Target, make_target
    from aether_sync._nats.client import NATSClient
    from aether_sync._nats.interest import message_class
    from aether_sync._nats.login import Login
    from aether_sync._nats.servers import Server
    from aether_sync._runtime.listeners import Listeners
    from aether_sync._runtime.reporter import Reporter

SID = 1


class Transport:
    """Gives pieces, then the end of the stream; takes everything."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [piece for piece in reversed(pieces) if piece]

    def at_eof(self) -> bool:
        return not self._pieces

    async def read(self, _: int) -> bytes:
        return self._pieces.pop()

    def write(self, _: bytes) -> None: ...

    def writelines(self, _: list[bytes]) -> None: ...

    async def drain(self) -> None: ...


class QuietReporter(Reporter):
    """Logs nothing; formats everything."""

    def _put(self, message: object) -> None:
        level, text, args = message  # type: ignore[misc]
        assert level < logging.ERROR, text % args
        text % args


class Watched(NATSClient):
    """A wire over such a transport, connected."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.unread: list[int] = []
        super().__init__(
            Server("nats://127.0.0.1:4222"),
            Login(()),
            QuietReporter(),
            refused=lambda error: None,
            unreadable=self.unread.append,
            informed=lambda client, info: None,
        )
        self._transport = Transport(pieces)
        self._status = Client.CONNECTED
        self._error_cb = self._on_error


def feed(pieces: list[bytes]) -> tuple[Watched, Target, Counters]:
    """Have a client with one subscription read pieces to their end."""
    return _loop.run_until_complete(_feed(pieces))


async def _feed(pieces: list[bytes]) -> tuple[Watched, Target, Counters]:
    reporter, counters = QuietReporter(), Counters()
    inbox = Incoming("a-node", counters, lambda target: None, Listeners(reporter))
    interest = EventInterest(inbox, "aether.events.>", ">", None)
    target = make_target((">",), None, 100, 1 << 20, "drop_oldest", None, lambda stats: None)
    interest.add(target)
    client = Watched(pieces)
    client._subs[SID] = Subscription(client, SID, "aether.events.>")
    client.msg_class = message_class({SID: interest}, reporter)  # type: ignore[assignment]
    pongs: list[None] = []
    for _ in range(3):
        client.ping(lambda: pongs.append(None))
    await client._read_loop()
    for _ in range(3):  # what it left to the loop
        await asyncio.sleep(0)
    assert client.lost.done(), "it neither goes on nor leaves"
    assert len(pongs) <= 3
    return client, target, counters


def pieces_of(data: bytes) -> list[bytes]:
    """Split bytes where they say: the first counts the pieces, and each of the next tells how long one is."""
    count = data[0] % 8 if data else 0
    sizes, rest = data[1 : 1 + count], data[1 + count :]
    pieces = []
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    return [*pieces, rest]


def check(data: bytes) -> None:
    """Feed a stream, in pieces and whole: what can be read to its end is the same for both."""
    pieces = pieces_of(data)
    results = []
    for stream in (pieces, [b"".join(pieces)]):
        client, target, counters = feed(stream)
        seen, _ = counters.snapshot()
        results.append((client.stats["in_msgs"], len(client.unread), seen["received"], seen["decode_errors"]))
        target.queue.close(discard=True)
        if not isinstance(client.lost.result(), UnexpectedEOF):
            return
    stream = b"".join(pieces)
    sizes = _SIZES.findall(stream)
    if len(sizes) == stream.count(b"HMSG") and all(int(headers) <= int(total) for headers, total in sizes):
        assert results[0] == results[1], results


#: Of messages with headers: those of the headers, and of all. Where they make no sense, nats-py reads over line ends.
_SIZES = re.compile(rb"HMSG\s+\S+\s+\S+\s+(?:\S+[ \t]+)?(\d{1,9})[ \t]+(\d{1,9})\r\n")


class _Raising(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(f"nats-py gave up reading: {record.getMessage()}") from (record.exc_info or [None] * 3)[1]


_loop = asyncio.new_event_loop()

if __name__ == "__main__":
    logging.getLogger("nats").addHandler(_Raising())
    _loop.set_exception_handler(lambda _, context: (_ for _ in ()).throw(AssertionError(context)))

    fuzz("parser", check)
