"""``Connection``: a connection to a NATS cluster that any thread may use, and several buses and stores may share."""

import ssl
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Never, TypedDict, Unpack, cast

from ._arguments import check_choice, check_count, check_flag, check_seconds, check_text, is_of
from ._nats.channel import Channel, EngineSlot
from ._nats.engine import Engine
from ._nats.options import LinkOptions
from ._nats.outbox import Outbox
from ._nats.pump import Account
from ._nats.reasons import counted
from ._nats.settings import InContext, settle
from ._nats.vitals import health_of
from ._runtime.closing import Startable, warn_unclosed
from ._runtime.deadline import Deadline
from ._runtime.exit import at_exit, mind_the_exit
from ._runtime.fork import ForkAware, fork_aware
from ._runtime.registry import WeakRegistry
from ._runtime.reporter import last_words
from ._runtime.waits import Reply, SingleFlight
from .errors import (
    AetherError,
    BusClosedError,
    ConnectError,
    DeadlineExceededError,
    DeliveryUncertainError,
    InvalidOptionError,
)
from .health import Health
from .metrics import CloseReport
from .notices import NoticeCallback

__all__ = ["OPTIONS", "Adopted", "Connection", "ConnectionOptions", "adopt", "channel_of", "secrets_in"]

_AT_EXIT = 5.0  # seconds to close all connections that nobody closed: as long as close() takes for one by default
_SHORTEST_INTERVAL = 0.001  # seconds between two PINGs: less would be a storm


class ConnectionOptions(TypedDict, total=False):
    """The keyword arguments of :class:`Connection`, as a type for functions of yours that hand them on.

    Such a function takes ``**options: Unpack[ConnectionOptions]``.
    """

    name: str | None
    connect: Literal["wait", "background"]
    connect_timeout: float
    ping_interval: float
    outbox_events: int
    outbox_bytes: int
    user: str | None
    password: str | None
    token: str | None
    credentials: str | Path | None
    nkeys_seed: str | Path | None
    tls: ssl.SSLContext | None
    tls_ca: str | Path | None
    tls_cert: str | Path | None
    tls_key: str | Path | None
    tls_hostname: str | None
    tls_handshake_first: bool
    trust_env: bool


#: The names of these.
OPTIONS = ConnectionOptions.__optional_keys__


class Connection(Startable, ForkAware):
    """A connection to a NATS cluster. The first use makes it; from then on it is kept up until it is closed.

    A forked child that uses the connection connects anew. Events that wait in the parent's outbox are sent by the
    parent alone.

    What is not given comes from the environment, in the variables of the nats command line, and behind it from the
    context that ``NATS_CONTEXT`` names. Credentials are one group: who gives a token here gets no user from there.
    Those in a URL come after arguments, and before the environment.

    Args:
        url: ``nats://host:port`` or ``tls://host:port``; several URLs of one cluster as a sequence, or separated by
            commas. By default ``NATS_URL``, else that of the context, else ``nats://127.0.0.1:4222``.
        name: The name that the server's monitoring shows; by default this library's name and the process id.
        connect: ``"wait"``: the first use waits for the first connection. ``"background"``: ``with`` and ``publish()``
            never wait for it, and events go into the outbox until it is there; calls that need an answer
            (``subscribe()``, ``flush()``, those of a store) wait for it within their own timeout.
        connect_timeout: Seconds for the whole first attempt to connect. When they are over, the call that waits raises
            ``ConnectError``, and further attempts go on in the background.
        ping_interval: Seconds between two PINGs. A server that does not answer one is left after twice that time, so by
            default a frozen server is noticed within 10 seconds.
        outbox_events: How many events may wait to be sent, also while disconnected.
        outbox_bytes: How many bytes may wait to be sent.
        user: The user. Both it and ``password``, or a token, may stand in the URL instead. By default ``NATS_USER``.
        password: The password of ``user``. By default ``NATS_PASSWORD``; if there is none it is empty, because a server
            may know a user without a password.
        token: A token. By default ``NATS_TOKEN``.
        credentials: Path of a credentials file, which holds a JWT and its seed; needs the extra ``nkeys``. By default
            ``NATS_CREDS``.
        nkeys_seed: Path of a file with an nkey seed; needs the extra ``nkeys``. By default ``NATS_NKEY``.
        tls: An SSL context, with the certificates that the server asks for. It takes the place of the three files.
        tls_ca: Path of a PEM file with the certificates of the authorities to trust, instead of the system's. By
            default ``NATS_CA``. With any of the three files, a server without TLS is refused.
        tls_cert: Path of a PEM file with this client's certificate and what leads from it to an authority. By default
            ``NATS_CERT``.
        tls_key: Path of a PEM file with the key of ``tls_cert``, which may stand in that file instead. By default
            ``NATS_KEY``. All three files are read now, and again when they have changed.
        tls_hostname: The name in the server's certificate, if it is not that of the host.
        tls_handshake_first: Whether the server speaks TLS from the first byte.
        trust_env: Whether the environment counts. False is for a server that the environment is not about, such as a
            second cluster, or the server of a test.

    Raises:
        InvalidOptionError: An option is of the wrong type or out of its range; a file or a context cannot be used; or
            settings of one source contradict each other.
    """

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        *,
        name: str | None = None,
        connect: Literal["wait", "background"] = "wait",
        connect_timeout: float = 5.0,
        ping_interval: float = 5.0,
        outbox_events: int = 65_536,
        outbox_bytes: int = 64 * 2**20,
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        credentials: str | Path | None = None,
        nkeys_seed: str | Path | None = None,
        tls: ssl.SSLContext | None = None,
        tls_ca: str | Path | None = None,
        tls_cert: str | Path | None = None,
        tls_key: str | Path | None = None,
        tls_hostname: str | None = None,
        tls_handshake_first: bool = False,
        trust_env: bool = True,
    ) -> None:
        connect = check_choice("connect", connect, {"wait": "wait", "background": "background"})
        connect_timeout = check_seconds("connect_timeout", connect_timeout)
        ping_interval = check_seconds("ping_interval", ping_interval, _SHORTEST_INTERVAL)
        outbox_events = check_count("outbox_events", outbox_events)
        outbox_bytes = check_count("outbox_bytes", outbox_bytes)
        given = {
            "url": url,
            "user": user,
            "password": password,
            "token": token,
            "credentials": credentials,
            "nkeys_seed": nkeys_seed,
            "tls": tls,
            "tls_ca": tls_ca,
            "tls_cert": tls_cert,
            "tls_key": tls_key,
            "tls_handshake_first": check_flag("tls_handshake_first", tls_handshake_first),
        }
        self._options = LinkOptions(
            settings=settle(given, check_flag("trust_env", trust_env)),
            name=check_text("name", name),
            connect_timeout=connect_timeout,
            ping_interval=ping_interval,
            tls_hostname=check_text("tls_hostname", tls_hostname),
        )
        outbox = Outbox(outbox_events, outbox_bytes)
        self._slot = EngineSlot(outbox, self._options.servers, is_awaited=connect == "wait")
        weakref.finalize(self, self._slot.reporter.end).atexit = False
        self._reset()
        fork_aware.add(self)

    @classmethod
    def from_context(
        cls,
        context: str | None = None,
        url: str | Sequence[str] | None = None,
        **options: Unpack[ConnectionOptions],
    ) -> "Connection":
        """Return a connection with the settings of a context of the nats command line, ``nats context add NAME``.

        The context takes the place of the environment, so that its secrets go to no server that the environment names,
        and the reverse. Arguments override it, setting by setting. The file is read once, now.

        The format is that of ADR-21 (https://github.com/nats-io/nats-architecture-and-design); the file of a context is
        ``nats/context/NAME.json`` below ``$XDG_CONFIG_HOME``, which is ``~/.config`` by default.

        Args:
            context: Its name, or the path of its file, which ends with ``.json``. By default the one that
                ``NATS_CONTEXT`` names, which stands behind the other variables of the environment, as for
                ``Connection()``; without that variable, the context that ``nats context select`` has chosen.
            url: As for :class:`Connection`.
            **options: Those of :class:`Connection`.

        Raises:
            InvalidOptionError: There is no such context; its file cannot be read, or has keys that are not known or
                that this library cannot use; or an option is wrong.
        """
        return cls(cast(str, InContext(url, context)), **options)

    def _reset(self) -> None:
        """Have no engine: as a new connection, or in a forked child."""
        self._slot.engine = None
        self._first_is_reported = False  # a call that waited for the first attempt to connect has got its result
        self._made: dict[int, tuple[Engine, weakref.finalize[..., Connection]]] = {}  # the engine, set in one step
        self._closing: SingleFlight[CloseReport] = SingleFlight()

    def _after_fork(self) -> None:
        for engine, finalizer in self._made.values():
            finalizer.detach()
            engine.link.disown(BusClosedError("this process was forked meanwhile"))
        self._closing.disown(CloseReport(timed_out=True))
        self._slot.outbox = self._slot.outbox.disown()
        self._reset()

    # -- connecting

    def start(self) -> None:
        """Begin to connect if nobody has, and wait for the first attempt.

        The first use does this as well, except with ``connect="background"``.

        Raises:
            ConnectError: The first attempt failed, or took longer than ``connect_timeout``. Further attempts go on in
                the background. With ``connect="background"`` the first call raises this even if the attempt is over,
                unless there is a connection by then. All later calls return at once, whether there is a connection or
                not.
            BusClosedError: The connection is closed.
        """
        engine = self._slot.engine
        is_reported = self._slot.is_awaited or self._first_is_reported  # where the first use waits, it has got it
        if engine is None or not engine.link.first.done or not is_reported:
            engine = self._begin_to_connect()
            try:
                engine.await_first_attempt()
            except ConnectError:
                if not engine.link.is_connected:  # else a later attempt has succeeded
                    raise
            finally:
                self._first_is_reported = engine.link.first.done
        self._refuse_if_closed()

    def _begin_use(self) -> None:
        self._ready()

    def _ready(self) -> Engine:
        """Return the engine, after the first attempt to connect; only a call that waits for it gets its error."""
        if not self._slot.is_awaited:
            return self._begin_to_connect()
        self.start()
        assert self._slot.engine is not None
        return self._slot.engine

    def _begin_to_connect(self) -> Engine:
        """Return the engine, which connects; waits for nothing."""
        self._refuse_if_closed()
        engine = self._slot.engine or self._make_engine()
        try:
            engine.loop.start()  # also if an exception of a signal handler kept another call from it
        except (BusClosedError, ConnectError):  # no thread can be started: for now, or for ever
            if engine.discard():
                self._drop(engine)
                raise
        if self._slot.closed:  # meanwhile
            self.close(0)
            self._refuse_if_closed()
        return engine

    def _make_engine(self) -> Engine:
        """Make an engine, unless another call is quicker.

        That call may be on this thread: making a loop may log, and a handler may publish. So no lock is held; the first
        engine that is put in its place stays, and one that comes later was never started.
        """
        mind_the_exit()
        _used.add(self)
        engine = Engine(self._options, self._slot.outbox, self._slot.reporter, self._slot.listeners)
        finalizer = weakref.finalize(self, _forsake, engine, repr(self))
        finalizer.atexit = False
        made = engine, finalizer
        if self._made.setdefault(0, made) is not made:
            finalizer.detach()
            engine.discard()
        self._slot.engine = engine = self._made[0][0]
        return engine

    def _drop(self, engine: Engine) -> None:
        """Forget an engine that has no thread: the next use makes another."""
        made = self._made.get(0)
        if made is not None and made[0] is engine:
            made[1].detach()
            self._slot.engine = None
            self._made.pop(0, None)

    def _refuse_if_closed(self) -> None:
        if self._slot.closed:
            raise BusClosedError(f"{self!r} is closed: make a new one")

    @property
    def started(self) -> bool:
        """Whether it has begun to connect in this process: by its first use, or by :meth:`start`.

        It stays true while a server is away, and after ``close()``. A forked child begins anew.
        """
        return self._slot.engine is not None

    @property
    def is_connected(self) -> bool:
        """Whether a server answers, as far as is known now."""
        return self._slot.is_connected

    def wait_connected(self, timeout: float | None = None) -> bool:
        """Begin to connect if nobody has, and wait until there is a connection.

        Args:
            timeout: Seconds to wait; None waits for ever.

        Returns:
            Whether there is one.

        Raises:
            BusClosedError: The connection is closed, or was closed meanwhile.
        """
        deadline = Deadline(timeout)
        engine, slot = self._begin_to_connect(), self._slot
        engine.loop.refuse_own_thread()
        link = engine.link
        link.changed.wait(lambda: link.is_connected or slot.closed or slot.engine is not engine, deadline)
        self._refuse_if_closed()
        return link.is_connected

    @property
    def reconnects(self) -> int:
        """How often the connection was made again after a loss."""
        return self._slot.reconnects

    def on(
        self,
        *,
        connected: NoticeCallback | None = None,
        disconnected: NoticeCallback | None = None,
        reconnected: NoticeCallback | None = None,
        uncertain: NoticeCallback | None = None,
        dropped: NoticeCallback | None = None,
        closed: NoticeCallback | None = None,
        **unknown: Never,
    ) -> Callable[[], None]:
        """Have functions called when something happens to the connection, each with a :class:`Notice`.

        They are called one after the other on a thread of the library's own, the one that logs, in order with the log
        records, and under none of its locks: a callback may block, raise, and use this library, ``close()`` and
        ``on()`` included. What it raises is logged. While one blocks, nothing else of this connection is logged or
        called; beyond some 2,000 that wait, calls are left out, except ``closed``.

        What happened before is not told again: see :attr:`is_connected`. But ``closed`` is called exactly once, also if
        it is registered afterwards. Nothing is called after it. ``close()`` waits up to a second for callbacks that
        run, unless one of them calls it. A callback that refers to the connection keeps it from being collected.

        In a forked child the callbacks stay, and are called for what happens to the connection there.

        Args:
            connected: There is a connection, for the first time.
            disconnected: The connection is lost. Attempts to connect again go on.
            reconnected: There is a connection again.
            uncertain: Events may not have arrived, because a connection broke before they were confirmed.
            dropped: A subscription of a bus on this connection drops events: called for the first of a burst, as it is
                logged.
            closed: The connection is closed, or has ended by an error.
            **unknown: Not used: a name that is not one of these is refused.

        Returns:
            A function that takes these callbacks off again. It waits for no call of them: one that another thread has
            begun or is about to begin as it is called may go on behind its return. All others are left out.

        Raises:
            InvalidOptionError: There is no callback, or none of such a name, or one cannot be called with one argument,
                or is an ``async def``.
        """
        return self._slot.listeners.add(
            connected=connected,
            disconnected=disconnected,
            reconnected=reconnected,
            uncertain=uncertain,
            dropped=dropped,
            closed=closed,
            **unknown,
        )

    def health(self) -> Health:
        """Return whether the connection is usable now, and if not, why.

        It is ok while a server answers and the outbox has room. It is not before the first connection, while
        disconnected, when nine tenths of the outbox are taken, and when it is closed. It is alive unless it is closed,
        has ended by an error, or its thread hangs: there is no sign of the server for a minute, and the thread does not
        answer from one call of this to the next one, five seconds later or more. A process that was stopped for a while
        (``SIGSTOP``, ``docker pause``) is alive.

        It waits for nothing, and asks nobody: what is told is known here already. It begins to connect if nothing has,
        so that a process which is asked for its health before its first work gets ready.

        Returns:
            With ``numbers``: ``seconds_since_server``, since the last sign of the server, which is asked for one every
            ``ping_interval``; ``seconds_disconnected``, since the loss, or since the first attempt (these two are only
            there if they apply); ``outbox_events``, ``outbox_bytes`` and ``outbox_filled``, its share that is taken;
            ``seconds_oldest_waiting``, how long the oldest event in it has waited; and ``reconnects``.
        """
        with suppress(AetherError):  # it is closed, or there is no thread: which the answer says
            self._begin_to_connect()
        return health_of(self._slot)

    def server_info(self) -> dict[str, Any]:
        """Return what the connected server says of itself (``INFO``); an empty dict while there is none."""
        engine = self._slot.engine
        return {} if engine is None else engine.link.info

    def flush(self, timeout: float | None = 5.0) -> None:
        """Wait until the connected server has processed everything that any thread published before this call.

        Args:
            timeout: Seconds to wait; None waits for ever.

        Raises:
            DeadlineExceededError: The server had not confirmed everything in time. What is in the outbox is still sent.
            DeliveryUncertainError: Since the last flush, a connection broke before some events were confirmed, or the
                server refused some.
            BusClosedError: The connection is closed.
        """
        deadline = Deadline(timeout)
        self._refuse_if_closed()
        engine = self._slot.engine
        if engine is None:
            return
        engine.loop.refuse_own_thread()
        pump = engine.link.pump
        reply: Reply[Account] = Reply()
        engine.loop.post(pump.flush, reply)
        try:
            account = reply.wait(deadline)
        except DeadlineExceededError:
            waiting = self._slot.outbox.position() - pump.settled
            why = "" if engine.link.is_connected else f" ({engine.link.connect_error()})"
            raise DeadlineExceededError(f"{counted(waiting)} not confirmed within {deadline}{why}") from None
        finally:
            if not reply.done:
                engine.loop.call_soon(lambda: pump.forget(reply))
        if account:
            pump.mark_reported(account)
            raise DeliveryUncertainError(
                str(account), uncertain=account.uncertain, rejected=account.rejected, reasons=account.reasons
            )

    # -- closing

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._slot.closed

    def close(self, timeout: float | None = 5.0) -> CloseReport:
        """Send what was accepted, wait until the server has confirmed it, and end the connection.

        Any thread may call it, and more than once.

        Args:
            timeout: Seconds for all of it; None waits for ever.

        Returns:
            What was left undone, which is also logged; the report is true if nothing was.
        """
        deadline, name = Deadline(timeout), repr(self)
        if self._slot.engine is not None:
            self._slot.engine.loop.refuse_own_thread()
        self._slot.closed = True  # first: a call that makes an engine looks for it afterwards
        self._slot.outbox.close()
        made = self._made.get(0)
        if made is None:
            self._slot.listeners.end(CloseReport())
            self._slot.reporter.close(last_words(deadline))
            return CloseReport()
        engine, finalizer = made
        finalizer.detach()
        try:
            return self._closing.run(lambda: engine.close(deadline, name), deadline, CloseReport(timed_out=True))
        except BaseException:  # of a signal handler: nobody may call close() again
            _go_on_without(engine)
            raise

    def __repr__(self) -> str:
        return f"<Connection {self._slot.summary}>"


def channel_of(connection: Connection, *, for_store: bool = False) -> Channel:
    """Return what a bus or a store does with a connection.

    Raises:
        InvalidOptionError: It is for a store, and the connection's context has settings of JetStream that no store of
            this library can use.
    """
    if for_store and (reason := connection._options.settings.no_store):
        raise InvalidOptionError(reason)
    return Channel(connection._slot, connection._begin_to_connect, connection._ready)


def secrets_in(connection: Connection) -> set[str]:
    """Return the passwords, tokens, JWTs and seeds with which a connection logs in: what nobody may be shown."""
    return connection._options.login().secrets()


class Adopted(NamedTuple):
    """What a bus or a store has of its connection."""

    connection: Connection
    channel: Channel
    is_own: bool  # made for it, and closed with it


def adopt(
    connection: Connection | str | Sequence[str] | None,
    options: ConnectionOptions,
    meant: str = "",
    *,
    for_store: bool = False,
) -> Adopted:
    """Take the connection that a bus or a store was given, or make one of what it was given.

    Args:
        connection: The connection, or the URL or URLs for one.
        options: For one that is made.
        meant: What its user may have meant, if it turns out that no host has the name in the URL.
        for_store: Whether it is for a store.

    Raises:
        InvalidOptionError: There are options for a connection that is made already, or one of them is wrong; or it
            is of no use for a store.
    """
    if is_of(connection, Connection):
        if options:
            raise InvalidOptionError(f"{', '.join(options)}: give that to the Connection, which is shared")
        return Adopted(connection, channel_of(connection, for_store=for_store), False)
    own = Connection(cast("str | Sequence[str] | None", connection), **options)
    own._options = replace(own._options, meant=meant)
    return Adopted(own, channel_of(own, for_store=for_store), True)


_used: WeakRegistry[Connection] = WeakRegistry()
_forsaken: list[Engine] = []  # their connections were collected; they flush once and end by themselves


@at_exit
def _close_all() -> None:
    deadline = Deadline(_AT_EXIT)
    unclosed = [(repr(one), one) for one in _used if one._slot.engine is not None and not one.closed]
    for _, connection in unclosed:
        with suppress(AetherError):  # the others are closed all the same
            connection.close(deadline.timeout_left())
    for engine in _forsaken:
        engine.loop.await_end(deadline)
    for name, connection in unclosed:  # last, as a warning may be turned into an error
        warn_unclosed(name, connection)


def _forsake(engine: Engine, name: str) -> None:
    if engine.closed:  # an exception kept the connection from knowing it, and it was closed without this engine
        return
    _go_on_without(engine)
    warn_unclosed(name, None)


def _go_on_without(engine: Engine) -> None:
    """Let an engine flush once and end in the background; at the exit of the process that is waited for."""
    engine.forsake()
    if engine.loop.was_started:
        _forsaken[:] = [one for one in _forsaken if not one.loop.has_ended] + [engine]
