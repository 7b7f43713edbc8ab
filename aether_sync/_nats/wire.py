"""What this library needs of a nats-py client below its public surface, all of it.

Written against nats-py 2.16. ``flush()`` there is no barrier (its PING overtakes what waits for the flusher task), and
a flush that times out kills the read loop; so commands are written to the transport here, in order, and a PING is
answered by a callback that nothing cancels.
"""

import json
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import Error, ProtocolError
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

from .login import Login, NotSentError

__all__ = ["SteadyClient", "SteadyParser", "Wire", "forget", "sid_of"]

_LONGEST_LINE = 1 << 20  # bytes; the greeting of a large cluster is the longest there is
_LARGEST_MESSAGE = 128 << 20  # bytes, headers included: twice what a server can be told to take

_NEEDED = (
    "_connect_command",
    "_current_server",
    "_error_cb",
    "_pending",
    "_pending_data_size",
    "_pongs",
    "_process_connect_init",
    "_process_info",
    "_process_msg",
    "_ps",
    "_reading_task",
    "_server_info",
    "_transport",
)


class SteadyParser(Parser):
    """A parser for which all that it cannot read is a protocol error, so that the client reconnects.

    nats-py ends reading at most of it, and goes on as if connected.
    """

    async def parse(self, data: bytes = b"") -> None:
        """Parse what has arrived."""
        try:
            await super().parse(data)
            if self.state == AWAITING_CONTROL_LINE:
                self._bound(len(self.buf), _LONGEST_LINE)
            else:
                self._bound(self.needed, _LARGEST_MESSAGE)
        except OSError:
            raise
        except Exception as error:
            await self.nc._error_cb(Error(f"what the server sends is not the NATS protocol ({type(error).__name__})"))
            raise ProtocolError from error

    @staticmethod
    def _bound(size: int, limit: int) -> None:
        if size > limit:
            raise ProtocolError


class SteadyClient(Client):
    """A client that reads on after a message it cannot understand, and sends no secret where TLS was asked for in vain.

    Args:
        wants_tls: Whether to leave a server that does not speak TLS, before any credentials are sent.
        login: What the server is shown.
        unreadable: Called with the sid of a message whose subject or headers cannot be read.
    """

    def __init__(self, wants_tls: bool, login: Login, unreadable: Callable[[int], None]) -> None:
        super().__init__()
        self._ps = SteadyParser(self)
        self._wants_tls = wants_tls
        self._login = login
        self._unreadable = unreadable

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and self._wants_tls and not info.get("tls_required"):
            raise NotSentError("TLS was asked for, and the server does not require it: nothing was sent to it")
        if not isinstance(info.get("max_payload", 0), int):
            raise ProtocolError
        await super()._process_info(info, initial_connection)

    def _connect_command(self) -> bytes:
        verb, _, fields = super()._connect_command().partition(b" ")
        server = self._current_server
        assert server is not None
        shown = self._login.fields(server.uri.hostname, server.uri.port, self._server_info.get("nonce"))
        return b"%b %b\r\n" % (verb, json.dumps(json.loads(fields) | shown).encode())

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except (TimeoutError, Error):
            raise
        except OSError as error:  # of a write, perhaps, which knows only that the connection is gone
            reader = getattr(self._transport, "_io_reader", None)
            raise (None if reader is None else reader.exception()) or error from None
        except Exception as error:  # on which nats-py would end its reconnecting
            raise Error(f"something answers there, but it is no NATS server ({type(error).__name__})") from error
        finally:
            if not self.is_connected:
                self._break_off()
        if not self.is_connected:  # nats-py takes the end of the stream, in place of the PONG, for a yes
            raise Error("the server closed the connection before it had answered")

    def _break_off(self) -> None:
        """End an attempt that failed: nats-py leaves its socket open, and its tasks running."""
        for task in (self._reading_task, self._ping_interval_task, self._flusher_task):
            if task is not None:
                task.cancel()
        if hasattr(self._transport, "_io_writer"):  # over WebSocket, nats-py has a session to close as well
            Wire(self).abort()
            self._transport = None

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        try:
            await super()._process_msg(sid, subject, reply, data, headers)
        except Exception:
            self._unreadable(sid)


class _Pong:
    """Stands where nats-py keeps a future, and calls back while the PONG is being parsed.

    So what is called knows which ``-ERR`` came before this PONG and which after.
    """

    __slots__ = ("_called",)

    def __init__(self, called: Callable[[], None]) -> None:
        self._called = called

    def set_result(self, _: object) -> None:
        self._called()


class Wire:
    """The bytes to and from the server of one nats client."""

    __slots__ = ("_client",)

    def __init__(self, client: Client) -> None:
        missing = [name for name in _NEEDED if not hasattr(client, name)]
        if missing:
            raise RuntimeError(f"this nats-py has no {', '.join(missing)}: install nats-py>=2.16,<3")
        self._client: Any = client

    def write(self, data: bytes) -> None:
        """Write commands, behind those that nats-py has pending."""
        self.push()
        self._client._transport.write(data)

    def push(self) -> None:
        """Write what waits for nats-py's flusher task, now."""
        client = self._client
        if client._pending:
            client._transport.writelines(client._pending)
            client._pending = []
            client._pending_data_size = 0

    def ping(self, on_pong: Callable[[], None]) -> None:
        """Write a PING; ``on_pong`` is called once the server has processed all that was written before.

        It is never called if the connection breaks first.
        """
        self.write(b"PING\r\n")
        self._client._pongs.append(_Pong(on_pong))

    async def drain(self) -> None:
        """Wait until the transport takes more. It does not end by itself while the server is frozen."""
        await self._client._transport.drain()

    @property
    def is_dead(self) -> bool:
        """Whether the client claims to be connected, but nobody reads any more."""
        task = self._client._reading_task
        return self._client.is_connected and (task is None or task.done())

    def abort(self) -> None:
        """Break the connection without waiting for the bytes that the server does not read."""
        client = self._client
        client._pending = []
        client._pending_data_size = 0
        writer = getattr(client._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()


def sid_of(subscription: Subscription) -> int:
    """The id by which client and server know a subscription."""
    return subscription._id


def forget(subscription: Subscription) -> None:
    """Take a subscription out of its client, which then does not send it again when it has reconnected."""
    subscription._conn._remove_sub(subscription._id)
