"""``Connection``: a connection to a NATS cluster that any thread may use, and several buses may share."""

import os
import ssl
import weakref
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from copy import copy
from importlib.util import find_spec
from pathlib import Path
from threading import get_ident
from typing import Any, Literal, TypedDict
from urllib.parse import urlsplit

from ._arguments import check_choice, check_count, check_flag, check_path, check_seconds, check_text, is_of
from ._nats.engine import Engine
from ._nats.interest import Interest, Mailbox, Message
from ._nats.options import ConnectOptions
from ._nats.outbox import Outbox
from ._nats.pump import Account
from ._nats.reasons import counted, shown
from ._nats.requests import Call, Requests, single
from ._runtime.closing import Startable, loop_threads, warn_unclosed
from ._runtime.deadline import Deadline
from ._runtime.exit import at_exit, mind_the_exit
from ._runtime.fork import ForkAware, fork_aware
from ._runtime.locks import signal_safe_lock
from ._runtime.registry import WeakRegistry
from ._runtime.waits import Reply, SingleFlight
from .errors import (
    AetherError,
    BusClosedError,
    ConnectError,
    DeadlineExceededError,
    DeliveryUncertainError,
    DisconnectedError,
    EventTooLargeError,
    InvalidOptionError,
    PublishTimeoutError,
)
from .metrics import CloseReport

__all__ = ["Connection", "ConnectionOptions"]

_AT_EXIT = 5.0  # seconds for all connections that nobody closed: what close() has for one
_DEFAULT_URL = "nats://127.0.0.1:4222"
_SHORTEST_INTERVAL = 0.001  # seconds between two PINGs: less would be a storm


class ConnectionOptions(TypedDict, total=False):
    """The keyword arguments of :class:`Connection`."""

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
    tls_hostname: str | None
    tls_handshake_first: bool


class Connection(Startable, ForkAware):
    """A connection to a NATS cluster: made at its first use, kept from then on until it is closed.

    A forked child that uses it connects afresh; what the parent had in its outbox, the parent sends.

    Args:
        url: ``nats://host:port`` or ``tls://...``, or several of one cluster, as a sequence or separated by commas. By
            default the environment's ``NATS_URL``, else ``nats://127.0.0.1:4222``.
        name: What the server's monitoring shows; by default this library's name and the process id.
        connect: Whether the first use waits for the first connection: ``"wait"``, or goes on in the ``"background"``:
            then ``with`` and ``publish()`` wait for none, and what is published before is in the outbox. What needs an
            answer (``subscribe()``, ``flush()``, a store's calls) waits within its own timeout.
        connect_timeout: Seconds for the whole of the first attempt. The call that made it then raises ``ConnectError``,
            and further attempts go on in the background.
        ping_interval: Seconds between two questions whether the server still answers. One that does not is left after
            twice that: by default a frozen server is noticed within 10 seconds.
        outbox_events: Events that wait to be sent at most, also while disconnected.
        outbox_bytes: Bytes that wait to be sent at most.
        user: With ``password``. Both, or a token, may also stand in the URL.
        password: With ``user``.
        token: A token.
        credentials: Path of a credentials file: a JWT and its seed; needs the extra ``nkeys``.
        nkeys_seed: Path of a file with an nkey seed; needs the extra ``nkeys``.
        tls: An SSL context, with what certificates the server asks for.
        tls_hostname: The name in the server's certificate, if it is not the host's.
        tls_handshake_first: For servers that speak TLS from the first byte.

    Raises:
        InvalidOptionError: An option is wrong.
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
        tls_hostname: str | None = None,
        tls_handshake_first: bool = False,
    ) -> None:
        connect = check_choice("connect", connect, {"wait": "wait", "background": "background"})
        connect_timeout = check_seconds("connect_timeout", connect_timeout)
        ping_interval = check_seconds("ping_interval", ping_interval, _SHORTEST_INTERVAL)
        outbox_events = check_count("outbox_events", outbox_events)
        outbox_bytes = check_count("outbox_bytes", outbox_bytes)
        credentials = _secret_file("credentials", credentials)
        nkeys_seed = _secret_file("nkeys_seed", nkeys_seed)
        if tls is not None and not is_of(tls, ssl.SSLContext):
            raise InvalidOptionError(f"tls must be an ssl.SSLContext, not {type(tls).__name__}")
        self._options = ConnectOptions(
            servers=_servers(url),
            name=check_text("name", name),
            connect_timeout=connect_timeout,
            ping_interval=ping_interval,
            user=user,
            password=password,
            token=token,
            credentials=credentials,
            nkeys_seed=nkeys_seed,
            tls=tls,
            tls_hostname=check_text("tls_hostname", tls_hostname),
            tls_handshake_first=check_flag("tls_handshake_first", tls_handshake_first),
        )
        self._is_awaited = connect == "wait"
        self._closed = False
        self.is_shared = False  #: a bus was given it, and others may be. For a bus
        self._outbox = Outbox(outbox_events, outbox_bytes)
        self._begin_unused()
        fork_aware.add(self)

    def _begin_unused(self) -> None:
        self._lock = signal_safe_lock()  # guards that answers are subscribed to once
        self._engine: Engine | None = None  # what runs for it, from its first use on
        self._made: dict[int, tuple[Engine, weakref.finalize[..., Connection]]] = {}  # that one, put there in one step
        self._closing: SingleFlight[CloseReport] = SingleFlight()

    def _after_fork(self) -> None:
        for engine, finalizer in self._made.values():
            finalizer.detach()
            engine.link.disown(BusClosedError("this process was forked meanwhile"))
        self._closing.disown(CloseReport(timed_out=True))
        self._outbox = self._outbox.disown()
        self._begin_unused()

    # -- connecting

    def start(self) -> None:
        """Connect, if that was not tried yet; the first use does it too, but for ``connect="background"``.

        Raises:
            ConnectError: No server within ``connect_timeout`` of the first use. Further attempts go on in the
                background, and further calls return at once.
            BusClosedError: The connection is closed.
        """
        if self._engine is None or not self._engine.link.first.done:
            self._begin().await_first_attempt()
        self._refuse_if_closed()

    def _begin_use(self) -> None:
        self.ready()

    def _begin(self) -> Engine:
        """Begin to connect, without waiting for it."""
        self._refuse_if_closed()
        engine = self._engine or self._make_engine()
        try:
            engine.loop.start()  # also if an interrupt kept another call from it
        except (BusClosedError, ConnectError):  # there is no thread: for now, or for ever
            if engine.discard():
                self._drop(engine)
                raise
        if self._closed:  # meanwhile
            self.close(0)
            self._refuse_if_closed()
        return engine

    def _make_engine(self) -> Engine:
        """Make what runs for it, unless another is quicker, on this thread perhaps: to make a loop may log.

        So no lock is held; the first that is put in its place stays there, and another was never started.
        """
        mind_the_exit()
        _used.add(self)
        engine = Engine(self._options, self._outbox)
        finalizer = weakref.finalize(self, _forsake, engine, repr(self))
        finalizer.atexit = False
        made = engine, finalizer
        if self._made.setdefault(0, made) is not made:
            finalizer.detach()
            engine.discard()
        self._engine = engine = self._made[0][0]
        return engine

    def _drop(self, engine: Engine) -> None:
        """Let the next use make another, as this one has no thread."""
        made = self._made.get(0)
        if made is not None and made[0] is engine:
            made[1].detach()
            self._engine = None
            self._made.pop(0, None)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise BusClosedError(f"{self!r} is closed")

    @property
    def is_connected(self) -> bool:
        """Whether there is a server that answers, as far as is known now."""
        engine = self._engine
        return engine is not None and engine.link.is_connected

    def wait_connected(self, timeout: float | None = None) -> bool:
        """Wait until there is a connection; begins to connect if nobody has.

        Args:
            timeout: Seconds.

        Returns:
            Whether it came in time.

        Raises:
            BusClosedError: The connection is closed, or was meanwhile.
        """
        deadline = Deadline(timeout)
        engine = self._begin()
        engine.loop.refuse_own_thread()
        link = engine.link
        link.changed.wait(lambda: link.is_connected or self._closed or self._engine is not engine, deadline)
        self._refuse_if_closed()
        return link.is_connected

    # -- what a bus does with it

    @property
    def is_awaited(self) -> bool:
        """Whether the first use waits for the first connection. For a bus."""
        return self._is_awaited

    def ready(self) -> None:
        """Begin to connect, and wait for the first attempt where the first use does. For a bus."""
        self._ready()

    def _ready(self) -> Engine:
        """Return the engine, after the first attempt to connect; only who waits for that attempt gets its error."""
        if not self._is_awaited:
            return self._begin()
        self.start()
        assert self._engine is not None
        return self._engine

    def send(
        self,
        frames: Sequence[bytes],
        size: int,
        largest: int,
        line: int,
        timeout: float | None,
        buffer: bool,
        wait: bool = True,
        make: Callable[[], Sequence[bytes]] | None = None,
    ) -> None:
        """Accept ``PUB`` frames, all of them or none. For a bus.

        Args:
            frames: Whole commands, in order.
            size: Bytes of all of them.
            largest: Bytes of the largest payload among them.
            line: The length of the longest of their lines.
            timeout: Seconds to wait for room in the outbox. On a loop thread, of whichever connection, nothing waits.
            buffer: Whether to accept them while disconnected.
            wait: Whether to wait for the first attempt to connect.
            make: Makes the frames, once there is room; ``frames`` is then what they are made of.

        Raises:
            As ``publish()``.
        """
        engine = self._engine
        if get_ident() in loop_threads:  # the collector runs a finalizer there, which publishes
            wait, timeout = False, 0.0
        if engine is None or not engine.link.first.done:
            engine = self._ready() if wait else self._begin()
        limit = engine.link.max_payload
        if largest > limit > 0:
            raise EventTooLargeError(f"an event of {largest} bytes is larger than the server's max_payload of {limit}")
        lines = engine.link.lines
        if line not in lines.taken:
            lines.take(line)
        if not buffer and not engine.link.is_connected:
            raise DisconnectedError(f"nothing was published: {engine.link.connect_error()}")
        try:
            self._outbox.put(frames, size, largest, timeout, make)
        except PublishTimeoutError as error:
            if engine.link.is_connected:
                raise
            raise PublishTimeoutError(f"{error}; {engine.link.connect_error()}") from None

    def enter(self, interest: Interest, *, wait: bool = True) -> None:
        """Have the server subscribe an interest, in the order of these calls. For a bus.

        Args:
            interest: Which.
            wait: Whether to wait for the first attempt to connect.
        """
        engine = self._ready() if wait else self._begin()
        engine.loop.post(engine.link.subscriber.enter, interest)

    def leave(self, interest: Interest) -> None:
        """Have the server unsubscribe an interest, in the order of these calls. For a bus."""
        engine = self._engine
        if engine is not None and not self._closed:
            with suppress(BusClosedError):  # it closed meanwhile, and all interests with it
                engine.loop.post(engine.link.subscriber.leave, interest)

    def await_confirmation(self, interest: Interest, deadline: Deadline) -> None:
        """Wait until the connected server has confirmed an interest. For a bus.

        Raises:
            DeadlineExceededError: It had not in time.
            PermissionDeniedError: It refuses.
        """
        engine = self._ready()
        engine.loop.refuse_own_thread()
        try:
            interest.confirmed.wait(deadline)
            engine.link.await_connection(deadline)  # by another server than the one that confirmed it, perhaps
        except DeadlineExceededError:
            link = engine.link
            why = "the server has not confirmed it" if link.is_connected else str(link.connect_error())
            raise DeadlineExceededError(f"no subscription to {interest.subject!r} within {deadline}: {why}") from None
        if interest.error is not None:  # by that other server
            raise copy(interest.error)

    def await_last(self, interests: Sequence[Interest], deadline: Deadline) -> None:
        """Wait until the server has sent the last message for interests that were left, or the deadline. For a bus."""
        engine = self._engine
        if engine is None or self._closed or engine.loop.is_current():
            return
        with suppress(DeadlineExceededError):
            for interest in interests:
                interest.gone.wait(deadline)

    def ask(
        self,
        subjects: Collection[str],
        make: Callable[[bytes], bytes],
        deadline: Deadline,
        is_last: Callable[[Message], bool] = single,
        largest: int = 0,
    ) -> Call:
        """Put a question to the server, whose answers the call is then waited for. For a store.

        Args:
            subjects: Whom it is put to.
            make: Makes the commands, of the inbox for the answers.
            deadline: For the connection, if there never was one, and the right to get answers.
            is_last: Whether an answer is the last one.
            largest: Bytes of the largest payload among the commands, headers included.

        Raises:
            ConnectError: There never was a connection.
            EventTooLargeError: That is more than the server takes.
            PermissionDeniedError: The server sends this user no answers.
        """
        engine = self._engine
        if engine is None or not engine.link.was_connected:
            engine = self._begin()
            engine.await_connection(deadline, as_first=self._is_awaited)
            self._refuse_if_closed()
        engine.loop.refuse_own_thread()
        requests = engine.link.requests
        if requests.mailbox.ended or not requests.mailbox.confirmed.done:
            self._open(requests, deadline)
        limit = engine.link.max_payload
        if largest > limit > 0:
            raise EventTooLargeError(f"an event of {largest} bytes is larger than the server's max_payload of {limit}")
        call = requests.begin(subjects, make, is_last)
        if not requests.put(call):
            engine.loop.post(requests.send, call)
        return call

    def ping(self, call: Call) -> None:
        """Have the server say, to a call that waits, that it has processed all that was sent before. For a store."""
        engine = self._engine
        if engine is not None:
            with suppress(BusClosedError):
                engine.loop.post(engine.link.requests.ping, call)

    def tell(self, frame: bytes) -> None:
        """Write commands to the server if there is a connection: nobody waits for an answer. For a store."""
        engine = self._engine
        if engine is None or self._closed:
            return
        requests = engine.link.requests
        if not requests.tell(frame):
            with suppress(BusClosedError):
                engine.loop.post(requests.write, frame)

    def expect_refusal(self, subject: str, refused: Callable[[AetherError], object] | None) -> None:
        """Have a refusal of what is told to a subject told to somebody; None for nobody any more. For a store."""
        engine = self._engine
        if engine is not None:
            engine.link.requests.expect_refusal(subject, refused)

    def subscribe(self, mailbox: Mailbox, deadline: Deadline) -> None:
        """Have what is sent to a subject arrive in a mailbox; returns when the server has confirmed it. For a store.

        Raises:
            DeadlineExceededError: It had not in time.
            PermissionDeniedError: It refuses.
        """
        self.enter(mailbox)
        self.await_confirmation(mailbox, deadline)

    def _open(self, requests: Requests, deadline: Deadline) -> None:
        """Have answers sent here."""
        with self._lock:
            mailbox = requests.open()
            if not mailbox.entered:
                self.enter(mailbox)
                mailbox.entered = True
        self.await_confirmation(mailbox, deadline)

    def why_not(self) -> str:
        """Say why there is no connection, to be put behind a message; nothing if there is one. For a store."""
        engine = self._engine
        return "" if engine is None or engine.link.is_connected else f" ({engine.link.connect_error()})"

    @property
    def reconnects(self) -> int:
        """How often it was connected again. For a store."""
        engine = self._engine
        return 0 if engine is None else engine.link.reconnects

    def server_info(self) -> dict[str, Any]:
        """Return what the connected server has said of itself (``INFO``); nothing if there is none. For a store."""
        engine = self._engine
        return {} if engine is None else engine.link.info

    def nudge(self, callback: Callable[[], object]) -> None:
        """Run a callback on the loop thread if there is one; takes no lock. For finalizers."""
        engine = self._engine
        if engine is not None:
            engine.loop.nudge(callback)

    def repeat(self, seconds: float, callback: Callable[[], bool]) -> None:
        """Run a callback on the loop thread every so many seconds, until it returns False. For a store."""
        self._ready().loop.repeat(seconds, callback)

    def counts(self) -> dict[str, int]:
        """Return what ``metrics()`` says of a connection."""
        events, size = self._outbox.depth()
        engine = self._engine
        return {
            "outbox_events": events,
            "outbox_bytes": size,
            "confirmed": 0 if engine is None else engine.link.pump.confirmed,
            "uncertain": 0 if engine is None else engine.link.pump.uncertain,
            "rejected": 0 if engine is None else engine.link.pump.rejected,
            "reconnects": self.reconnects,
        }

    def flush(self, timeout: float | None = 5.0) -> None:
        """Return when the connected server has processed all that was published before, by any thread.

        Args:
            timeout: Seconds.

        Raises:
            DeadlineExceededError: It had not in time; what is in the outbox is sent when it can be.
            DeliveryUncertainError: Since the last flush, events were lost from sight with a connection, or refused.
            BusClosedError: The connection is closed.
        """
        deadline = Deadline(timeout)
        self._refuse_if_closed()
        engine = self._engine
        if engine is None:
            return
        engine.loop.refuse_own_thread()
        pump = engine.link.pump
        reply: Reply[Account] = Reply()
        engine.loop.post(pump.flush, reply)
        try:
            account = reply.wait(deadline)
        except DeadlineExceededError:
            waiting = self._outbox.position() - pump.settled
            why = "" if engine.link.is_connected else f" ({engine.link.connect_error()})"
            raise DeadlineExceededError(f"{counted(waiting)} not confirmed within {deadline}{why}") from None
        finally:
            if not reply.done:
                engine.loop.nudge(lambda: pump.forget(reply))
        if account:
            pump.tell(account)
            raise DeliveryUncertainError(
                str(account), uncertain=account.uncertain, rejected=account.rejected, reasons=account.reasons
            )

    # -- closing

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def close(self, timeout: float | None = 5.0) -> CloseReport:
        """Send what was accepted, have it confirmed, and end the connection. Idempotent, from any thread.

        Args:
            timeout: Seconds for all of it.

        Returns:
            What was left undone; it is logged if there is any.
        """
        deadline, name = Deadline(timeout), repr(self)
        if self._engine is not None:
            self._engine.loop.refuse_own_thread()
        self._closed = True  # first: who makes an engine then looks for it
        self._outbox.close()
        made = self._made.get(0)
        if made is None:
            return CloseReport()
        engine, finalizer = made
        finalizer.detach()
        try:
            return self._closing.run(lambda: engine.close(deadline, name), deadline, CloseReport(timed_out=True))
        except BaseException:  # a signal handler's: nobody may come back for this
            _go_on_without(engine)
            raise

    @property
    def summary(self) -> str:
        """Where it goes, and how it stands; without secrets."""
        state = "closed" if self._closed else self._engine.link.state.value if self._engine else "new"
        return f"{', '.join(map(shown, self._options.servers))} {state}"

    def __repr__(self) -> str:
        return f"<Connection {self.summary}>"


def _secret_file(name: str, path: str | Path | None) -> str | None:
    if path is None:
        return None
    text = check_path(name, path)
    if find_spec("nkeys") is None:
        raise InvalidOptionError(f"{name} needs the package nkeys: pip install 'aether-sync[nkeys]'")
    if not os.path.isfile(text):
        is_path = "\n" not in text and (os.sep in text or len(text) < 40)  # and not the secret itself, in its place
        raise InvalidOptionError(f"{name} is the path of a file, and there is none{f' at {text!r}' if is_path else ''}")
    return text


_used: WeakRegistry[Connection] = WeakRegistry()
_forsaken: list[Engine] = []  # of connections that were collected; they flush and end by themselves


@at_exit
def _close_all() -> None:
    deadline = Deadline(_AT_EXIT)
    unclosed = [(repr(one), one) for one in _used if one._engine is not None and not one.closed]
    for _, connection in unclosed:
        with suppress(AetherError):  # the others are closed all the same
            connection.close(deadline.timeout_left())
    for engine in _forsaken:
        engine.loop.await_end(deadline)
    for name, connection in unclosed:  # only now: a warning may be an error
        warn_unclosed(name, connection)


def _forsake(engine: Engine, name: str) -> None:
    if engine.closed:  # an interrupt came before it was known to the connection, which was closed without it
        return
    _go_on_without(engine)
    warn_unclosed(name, None)


def _go_on_without(engine: Engine) -> None:
    """Let it flush once and end, in the background; at exit that is waited for."""
    engine.forsake()
    if engine.loop.was_started:
        _forsaken[:] = [one for one in _forsaken if not one.loop.has_ended] + [engine]


def _servers(url: str | Sequence[str] | None) -> tuple[str, ...]:
    """Check what a connection was given to connect to."""
    if url is None:
        url = os.environ.get("NATS_URL") or _DEFAULT_URL
    urls = str.__str__(url).split(",") if is_of(url, str) else url if type(url) in (list, tuple) else _read(url)
    if not urls or not all(is_of(one, str) for one in urls):
        raise InvalidOptionError("a connection wants a URL such as 'nats://host:4222', or a sequence of them")
    return tuple(_checked(str.__str__(one)) for one in urls)


def _read(urls: Any) -> Sequence[str]:
    try:
        return tuple(urls) if issubclass(type(urls), Sequence) else ()
    except Exception:  # of a sequence of the user's
        return ()


def _checked(url: str) -> str:
    url = url.strip()
    if "://" not in url:
        url = f"nats://{url}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("nats", "tls") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InvalidOptionError(
            f"no server URL, as far as it may be shown: {shown(url)!r}; expected nats://host:port or tls://host:port. "
            "In a user or password, escape / ? # @ as %2F %3F %23 %40, or give them as user= and password="
        )
    return url
