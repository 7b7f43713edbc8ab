"""What this library needs of a nats-py client below its public surface, all of it.

Written against nats-py 2.16. ``flush()`` there is no barrier (its PING overtakes what waits for the flusher task), and
a flush that times out kills the read loop; so commands are written to the transport here, in order, and a PING is
answered by a callback that nothing cancels. Nor does anything here wait for a server to read before it is left.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.errors import Error, ProtocolError
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

__all__ = ["SteadyClient", "Wire", "forget", "sid_of"]

_NEEDED = ("_pending", "_pending_data_size", "_pongs", "_ps", "_reading_task", "_server_pool", "_transport")
_OVERRIDDEN = (
    "_attempt_reconnect", "_close", "_connect_to_server", "_flush_pending", "_process_connect_init", "_process_info",
    "_process_msg", "_process_op_err", "_select_next_server", "_setup_server_pool",
)  # fmt: skip
_LONGEST_LINE = 2**20  # bytes; an INFO that names every server of a large cluster has thousands


class _SteadyParser(Parser):
    """Ends a connection on which something cannot be understood, where nats-py logs it and reads no more."""

    received = 0  # bytes ever

    async def parse(self, data: bytes = b"") -> None:
        self.received += len(data)
        try:
            await super().parse(data)
        except OSError:
            raise
        except Exception as error:
            raise ProtocolError from error
        if self.state == AWAITING_CONTROL_LINE and (b"\r\n" in self.buf or len(self.buf) > _LONGEST_LINE):
            raise ProtocolError  # a whole line that is none of the protocol, or one that never ends


class SteadyClient(Client):
    """A client that leaves a server without waiting for it, and finds another.

    It reads on after a message it cannot understand, and sends no secret where TLS was asked for in vain.

    Args:
        wants_tls: Whether to leave a server that does not speak TLS, before any credentials are sent.
        unreadable: Called with the sid of a message whose subject or headers cannot be read.
        informed: Called when a connected server has changed what it says of itself.
        before: The client that this one replaces; the servers it was told of are known to this one too.
    """

    def __init__(
        self,
        wants_tls: bool,
        unreadable: Callable[[int], None],
        informed: Callable[["SteadyClient", dict[str, Any]], None],
        before: Client | None = None,
    ) -> None:
        super().__init__()
        self._wants_tls = wants_tls
        self._unreadable = unreadable
        self._informed = informed
        self._known = [] if before is None else [server for server in before._server_pool if server.discovered]
        self._left = None if before is None else before._current_server
        self._ps = _SteadyParser(self)
        self._is_abandoned = False

    # -- servers

    def _setup_server_pool(self, connect_url: list[str]) -> None:
        super()._setup_server_pool(connect_url)
        self._server_pool += self._known

    @property
    def has_alternative(self) -> bool:
        """Whether another server is known than the one it is connected to."""
        return any(_address(server) != _address(self._current_server) for server in self._server_pool)

    async def _select_next_server(self) -> None:
        """Try those first that did not fail, and last the one that was just left: it may be frozen, or about to go."""
        left = self._left and _address(self._left)
        self._server_pool.sort(key=lambda server: (server.reconnects, _address(server) == left))
        await super()._select_next_server()

    async def _connect_to_server(self, s: Any) -> None:
        self._abort()  # an attempt before this one: nats-py only forgets it, socket and all
        if not self._is_abandoned:
            await super()._connect_to_server(s)
        if self._is_abandoned:  # and its cancellation came when it was connected just now, and was swallowed
            self._abort()
            raise asyncio.CancelledError

    async def _process_connect_init(self) -> None:
        await super()._process_connect_init()
        if not self.is_connected:  # the PONG is still to come, and would be taken for the answer to another PING
            raise ProtocolError

    # -- what the server says

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and self._wants_tls and not info.get("tls_required"):
            raise Error("TLS was asked for, and the server does not require it: nothing was sent to it")
        await super()._process_info(info, initial_connection)
        self._merge_servers()
        if not initial_connection:
            limit = info.get("max_payload")
            if isinstance(limit, int) and limit > 0:
                self._max_payload = limit
            self._informed(self, info)

    def _merge_servers(self) -> None:
        """Know each server once, as it was given; one that was discovered wants the credentials of the others' URLs."""
        servers: dict[tuple[str | None, int | None], Any] = {}
        for server in sorted(self._server_pool, key=lambda server: server.discovered):
            servers.setdefault(_address(server), server)
        self._server_pool[:] = servers.values()
        secret, _, _ = self._current_server.uri.netloc.rpartition("@") if self._current_server else ("", "", "")
        for server in self._server_pool if secret else ():
            if server.discovered and "@" not in server.uri.netloc:
                server.uri = server.uri._replace(netloc=f"{secret}@{server.uri.netloc}")

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        try:
            await super()._process_msg(sid, subject, reply, data, headers)
        except Exception:
            self._unreadable(sid)

    # -- writing, and leaving

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        """Write now: nats-py's flusher has a bounded queue, and a server that does not read would hold up who fills it.

        What is pending while disconnected is of no use on the next connection, where all subscriptions are sent again.
        """
        pending, self._pending, self._pending_data_size = self._pending, [], 0
        if pending and self._transport and _is_open(self):
            self._transport.writelines(pending)
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def _process_op_err(self, e: Exception) -> None:
        if self.is_connected:
            await self._error_cb(e)  # nats-py tells only some of them
        await super()._process_op_err(e)

    async def _attempt_reconnect(self) -> None:
        self._left = self._current_server
        self._abort()  # else it waits until the server has read what was written
        await super()._attempt_reconnect()

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        if do_cbs and self._err is not None and not self.is_closed:
            await self._error_cb(self._err)  # why, before disconnected_cb
        self._abort()
        await super()._close(status, do_cbs)

    def abandon(self) -> None:
        """Break the connection for good, and any that is still being made."""
        self._is_abandoned = True
        self._abort()

    def _abort(self) -> None:
        """Break the connection, with all that the server has not read."""
        self._pending, self._pending_data_size = [], 0
        if self._reading_task is not None and self._reading_task is not asyncio.current_task():
            self._reading_task.cancel()
        transport = _transport_of(self)
        if transport is not None:
            transport.abort()


def _address(server: Any) -> tuple[str | None, int | None]:
    return server.uri.hostname, server.uri.port


def _transport_of(client: Any) -> asyncio.WriteTransport | None:
    """Return asyncio's transport below nats-py's; a websocket has none that we know."""
    writer = getattr(client._transport, "_io_writer", None)
    return None if writer is None else writer.transport


def _is_open(client: Any) -> bool:
    transport = _transport_of(client)
    return client.is_connected and (transport is None or not transport.is_closing())


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
        missing += [name for name in _OVERRIDDEN if not hasattr(Client, name)]
        if missing:
            raise RuntimeError(f"this nats-py has no {', '.join(missing)}: install nats-py>=2.16,<3")
        self._client: Any = client

    @property
    def is_open(self) -> bool:
        """Whether what is written now may arrive."""
        return _is_open(self._client)

    def write(self, data: bytes) -> None:
        """Write commands, if the connection is open."""
        if self.is_open:  # asyncio would log, on this thread, that it is not
            self._client._transport.write(data)

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
    def received(self) -> tuple[object, int]:
        """What changes whenever bytes come from the server, or from another one."""
        return _transport_of(self._client), self._client._ps.received


def sid_of(subscription: Subscription) -> int:
    """The id by which client and server know a subscription."""
    return subscription._id


def forget(subscription: Subscription) -> None:
    """Take a subscription out of its client, which then does not send it again when it has reconnected."""
    subscription._conn._remove_sub(subscription._id)
