"""One connection to one server. This module has everything that this library needs of nats-py's private surface.

It was read in nats-py 2.10 to 2.16. Reconnecting, flushing and closing of nats-py are not used: they wait for servers
that do not read, forget sockets, or give up for good. (``flush()`` is no barrier, and one that times out kills the read
loop; most ``-ERR`` close the client.) A client here is for one attempt to connect, and for the connection that comes of
it. It is abandoned without waiting for anything, and another client takes its place. Commands are written to the
transport at once and in order, and a callback that nothing cancels is called for each PONG.
"""

import asyncio
import json
import os
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from nats.aio.client import DEFAULT_BUFFER_SIZE, Client
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport
from nats.errors import ConnectionClosedError, Error, ProtocolError, UnexpectedEOF

from .._runtime.fork import OwnFile, let_go
from .._runtime.reporter import Kind, Reporter
from .fast_reader import LONGEST_LINE, FastReader
from .interest import Interest, message_class
from .login import Login, NotSentError, secrets_of
from .options import LinkOptions
from .parser import SteadyParser
from .reasons import describe, said_by, says_refusal
from .servers import Server
from .shortcut import Shortcut, duplicate
from .uplink import on_this_side

__all__ = ["NATSClient", "TLSState", "forget", "sid_of"]

_NEEDED = (
    "_close", "_connect_command", "_flush_pending", "_process_connect_init", "_process_err", "_process_info",
    "_process_msg", "_process_op_err", "_remove_sub", "_select_next_server", "_send_ping",
)  # fmt: skip
_SECRET = 4  # characters: shorter ones occur in any text
_LAST_WORDS = re.compile(rb"^-ERR '(.*)'\r$", re.M)


def _check(client: type) -> None:
    if missing := [name for name in _NEEDED if not hasattr(client, name)]:
        raise ImportError(f"this nats-py has no {', '.join(missing)}: install nats-py>=2.10,<3")


_check(Client)


class TLSState(NamedTuple):
    """How a connection is encrypted."""

    version: str  # such as "TLSv1.3"
    is_verified: bool  # the server's certificate was checked against those that are trusted
    checks_name: bool  # it was checked that the certificate is for the host
    expires: float | None  # when the server's certificate does, in seconds since 1970; None if it was not verified


class NATSClient(Client):
    """A nats client for one connection. Loop thread only.

    It keeps reading after a message that it cannot understand, and sends no secret if TLS was asked for and the server
    does not require it.

    Args:
        server: The server to connect to.
        login: The credentials for the server.
        reporter: Logs.
        refused: Called with the text of each ``-ERR``, which may quote a secret if it cannot be read; returns whether
            the connection goes on.
        unreadable: Called with the sid of a message whose subject or headers cannot be read.
        informed: Called with each ``INFO`` of the server that may be believed: one that came once it had let us in, and
            its first one as well, unless that came before TLS.

    Attributes:
        server: The server.
        lost: Done when the connection has ended, with the reason.
        interests: The interests that are subscribed on this connection, by their sids.
        shortcut: The way of other threads to the socket, once it was opened.
        line: The length of the line of its ``CONNECT``.
    """

    def __init__(
        self,
        server: Server,
        login: Login,
        reporter: Reporter,
        *,
        refused: Callable[[str], bool],
        unreadable: Callable[[int], None],
        informed: Callable[["NATSClient", dict[str, Any]], None],
    ) -> None:
        super().__init__()
        self.server = server
        self.lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self.interests: dict[int, Interest] = {}
        self.msg_class = message_class(self.interests, reporter)  # type: ignore[assignment]
        self._login = login
        self._reporter = reporter
        self._refused = refused
        self._unreadable = unreadable
        self._informed = informed
        self._wants_tls = False
        self._greeting: dict[str, Any] = {}  # its first INFO
        self._ear: OwnFile | None = None
        self._secrets: set[str] = set()  # that were sent to the server
        self.line = 0
        self._gathered: list[bytes] | None = None
        self._ps = self._parser = SteadyParser(self)
        self._reader: FastReader | None = None
        self.shortcut: Shortcut | None = None
        self._written = 0  # bytes ever, without those that took the shortcut

    # -- its beginning

    async def open(self, options: LinkOptions) -> None:
        """Make one attempt to connect, with a deadline; raise the reason if it fails."""
        self._wants_tls = options.wants_tls
        try:
            async with asyncio.timeout(options.patience(self.server)):
                await self.connect(**options.for_nats(self.server), error_cb=self._on_error)
        except ConnectionError as error:  # the reason may stand in what was received, read or not
            reader = getattr(self._transport, "_io_reader", None)
            words = _last_words(bytes(getattr(reader, "_buffer", b"")) + self._unread())
            words = self._without_secrets(words)
            raise (Error(words) if words else reader and reader.exception()) or error from None
        except (Error, OSError):
            raise
        except Exception as error:
            raise Error(f"something answers there, but it is no NATS server ({type(error).__name__})") from error
        if self.lost.done():  # it was abandoned meanwhile; asyncio may have swallowed the cancellation
            raise self.lost.result()
        if self._reading_task is not None:
            self._reading_task.add_done_callback(lambda _: self.abandon(Error("nats-py has stopped reading")))
        if options.lean:
            self._read_lean()

    def _read_lean(self) -> None:
        """Take our messages before nats-py does. Nothing is subscribed yet, so it has none of them."""
        transport = self._writer_transport()
        if transport is not None:
            with suppress(TypeError):
                self._reader = FastReader(
                    transport.get_protocol(),
                    self.interests,
                    deliver=lambda inbox: inbox.deliver(self._reporter),
                    broken=lambda what: self.abandon(Error(f"what the server sends is not the NATS protocol ({what})")),
                    losing=self._hear_out,
                )
                transport.set_protocol(self._reader)
                return
        self._reporter.burst(Kind.SLOW_PATH, "this nats-py is not known well enough to be read the fast way")

    def _listen(self) -> None:
        """Duplicate the file: a transport that cannot write closes its own, though there may be something to read."""
        self._close_ear()
        transport = self._writer_transport()
        number = -1 if transport is None else duplicate(transport)
        if number >= 0:
            self._ear = OwnFile.of(number)

    def _close_ear(self) -> None:
        ear, self._ear = self._ear, None
        if ear is not None and ear.is_ours:
            os.close(ear.number)

    async def _select_next_server(self) -> None:
        (server,) = self._server_pool
        self._current_server, self._transport = server, TcpTransport()  # type: ignore[no-untyped-call]
        await self._transport.connect(server.uri, DEFAULT_BUFFER_SIZE, self.options["connect_timeout"])

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except NotSentError:
            raise
        except Error as error:
            raise Error(self._without_secrets(said_by(error))) from None
        if not self.is_connected:  # nats-py takes anything for a PONG, also the end of the stream
            raise Error("the server closed the connection before it had answered")
        # What came before TLS may be from anyone, and names servers that would be shown our credentials. Since 2.12, a
        # server says it again behind its first PONG; before, when its cluster changes.
        if self.options["tls_handshake_first"] or not self._greeting.get("tls_required"):
            self._informed(self, self._greeting)

    def _connect_command(self) -> bytes:
        verb, _, fields = super()._connect_command().partition(b" ")
        assert self._current_server is not None
        self._listen()
        uri = self._current_server.uri
        shown = self._login.fields(uri.hostname, uri.port, self._server_info.get("nonce"))
        self._secrets = {secret for secret in secrets_of(shown) if len(secret) >= _SECRET}
        fields = json.dumps(json.loads(fields) | shown).encode()
        self.line = len(fields)
        return b"%b %b\r\n" % (verb, fields)

    # -- what the server says

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and self._wants_tls and not info.get("tls_required"):
            raise NotSentError("TLS was asked for, and the server does not require it: nothing was sent to it")
        limit = info.get("max_payload", 0)
        if isinstance(limit, int) and limit > 0:
            self._max_payload = limit
        elif initial_connection and not isinstance(limit, int):
            raise ProtocolError
        if initial_connection:
            self._greeting = info
        else:
            self._informed(self, info)

    async def _on_error(self, error: Exception) -> None:
        if self.is_connected and not isinstance(error, UnexpectedEOF):  # else it is raised by open()
            self._reporter.burst(Kind.SERVER_ERROR, "nats-py reports: %s", describe(error))

    async def _process_err(self, err_msg: str) -> None:
        """Handle an ``-ERR``: nats-py would turn it into lower case, and close where the server does not."""
        self._heed(self._parser.error_text() or err_msg)

    def _heed(self, text: str) -> None:
        if not (self.is_connected and self._refused(text)):
            self.abandon(Error(self._without_secrets(text)))

    def _without_secrets(self, text: str) -> str:
        """Return the text of an ``-ERR`` for an error.

        Servers do not quote credentials, but something between us and them may. What a text is about is read before it
        comes here: a subject, or a word of the server's own, may happen to have a password in it.
        """
        if says_refusal(text) or not any(secret in text for secret in self._secrets):
            return text
        return "an error that quotes the CONNECT"

    def _hear_out(self) -> None:
        """Handle what has come and was not read when the connection broke, perhaps while it was written to.

        The server's last ``-ERR`` may be in it. It has to be done now, because nats-py only looks at why the connection
        is lost.
        """
        buffer = getattr(getattr(self._transport, "_io_reader", None), "_buffer", None)
        if self._reader is None or not isinstance(buffer, bytearray):
            return
        self._reader.take(self._unread())
        parsing = self._parser.parse(bytes(buffer))
        buffer.clear()
        with suppress(StopIteration, ProtocolError, OSError):
            parsing.send(None)  # it never waits for anything, so one step runs all of it
        parsing.close()

    def _unread(self) -> bytes:
        """Return what has come and the transport has not read."""
        parts: list[bytes] = []
        ear = self._ear
        with suppress(OSError):  # it does not block
            while ear is not None and (part := os.read(ear.number, LONGEST_LINE)):
                parts.append(part)
        return b"".join(parts)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        try:
            await super()._process_msg(sid, subject, reply, data, headers)
        except Exception:
            self._unreadable(sid)

    @property
    def info(self) -> dict[str, Any]:
        """The last ``INFO`` of the server."""
        return dict(self._server_info)

    @property
    def received(self) -> int:
        """Bytes received ever."""
        return self._parser.received if self._reader is None else self._reader.received

    def tls(self) -> TLSState | None:
        """Return how the connection is encrypted; None if it is not."""
        transport = self._writer_transport()
        made = None if transport is None else transport.get_extra_info("ssl_object")
        if made is None:
            return None
        until = (made.getpeercert() or {}).get("notAfter")  # which is empty if the certificate was not verified
        return TLSState(
            version=made.version() or "",
            is_verified=made.context.verify_mode is ssl.CERT_REQUIRED,
            checks_name=made.context.check_hostname,
            expires=None if until is None else float(ssl.cert_time_to_seconds(until)),
        )

    # -- writing

    @property
    def written(self) -> int:
        """Bytes written ever."""
        return self._written + (0 if self.shortcut is None else self.shortcut.written)

    @property
    def delivered(self) -> int:
        """About how many of the written bytes have reached the server's kernel; TLS adds some on the way."""
        writer, bare = (getattr(self._transport, name, None) for name in ("_io_writer", "_bare_io_writer"))
        layers = {
            id(one): one.transport for one in (writer, bare) if one is not None
        }  # that of TLS and that of TCP, or one for both
        return self.written - on_this_side(*layers.values())

    @property
    def is_open(self) -> bool:
        """Whether bytes that are written now may arrive."""
        transport = self._writer_transport()
        return self.is_connected and (transport is None or not transport.is_closing())

    @property
    def is_idle(self) -> bool:
        """Whether bytes that are written now go out at once."""
        transport = self._writer_transport()
        return self.is_open and transport is not None and not transport.get_write_buffer_size()

    @contextmanager
    def in_one_write(self) -> Iterator[None]:
        """Gather all writes within the ``with``, and write them together at its end."""
        gathered = self._gathered = []
        try:
            yield
        finally:
            self._gathered = None
            self.write(b"".join(gathered))

    def write(self, data: bytes) -> None:
        """Write commands, if the connection is open."""
        if self._gathered is not None:
            self._gathered.append(data)
            return
        if not (self.is_open and self._transport):  # asyncio would log such a write on this thread
            return
        self._written += len(data)
        if self.shortcut is None:
            self._transport.write(data)
        else:
            self.shortcut.write(data)

    def open_shortcut(self, carried: Callable[[], object]) -> Shortcut | None:
        """Let other threads write as well; ``carried`` is called when one has."""
        transport = self._writer_transport()
        if transport is not None and self.shortcut is None:
            self.shortcut = Shortcut(transport, carried)
        return self.shortcut

    def ping(self, on_pong: Callable[[], None]) -> None:
        """Write a PING, and call ``on_pong`` once the server has processed everything written before.

        If the connection breaks first, ``on_pong`` is never called.
        """
        self.write(b"PING\r\n")
        if not self.lost.done():
            self._pongs.append(_Pong(on_pong))  # type: ignore[arg-type]

    async def _send_ping(self, future: Any = None) -> None:
        self.ping(lambda: None)

    async def writable(self) -> None:
        """Wait until the transport takes more, for ever if the server is frozen."""
        if self._transport:
            await self._transport.drain()  # type: ignore[no-untyped-call]

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        """Write at once: the queue of nats-py's flusher is bounded, and a full one waits for the server to read."""
        pending, self._pending, self._pending_data_size = self._pending, [], 0
        self.write(b"".join(pending))
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    # -- its end

    def disown(self) -> None:
        """In a forked child: release the files that the loop does not know."""
        if self.shortcut is not None:
            self.shortcut.disown()
        ear, self._ear = self._ear, None
        if ear is not None:
            let_go([ear])

    def abandon(self, why: Exception) -> None:
        """End the connection at once; what the server has not read is lost. Does nothing the second time.

        A PONG that has come with the reason for the end confirms nothing any more: nats-py parses it all the same.
        """
        if not self.lost.done():
            self.lost.set_result(why)
        self._status = Client.CLOSED
        self._pongs.clear()
        self._close_ear()
        if self.shortcut is not None:
            self.shortcut.close()
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        transport = self._writer_transport()
        if transport is not None:
            transport.abort()

    async def _process_op_err(self, e: Exception) -> None:
        self.abandon(e)

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        self.abandon(self._err or ConnectionClosedError())

    def _writer_transport(self) -> asyncio.WriteTransport | None:
        """Return asyncio's transport, which is below that of nats-py."""
        writer = getattr(self._transport, "_io_writer", None)
        return None if writer is None else writer.transport


class _Pong:
    """Stands in place of the future that nats-py keeps for a PONG, and is called while the PONG is parsed.

    So the callback knows which ``-ERR`` came before the PONG, and which came after it.
    """

    __slots__ = ("_called",)

    def __init__(self, called: Callable[[], None]) -> None:
        self._called = called

    def set_result(self, _: object) -> None:
        self._called()


def _last_words(said: bytes) -> str:
    """Return the text of the server's last ``-ERR``; an empty text if it sent none."""
    found = _LAST_WORDS.search(said)
    return found[1].decode(errors="replace") if found else ""


def sid_of(subscription: Subscription) -> int:
    """Return the id by which client and server know a subscription."""
    return subscription._id


def forget(subscription: Subscription) -> None:
    """Remove a subscription from its client. It must be unsubscribed already."""
    subscription._conn._remove_sub(subscription._id)
