"""Every argument of everything public, given what it cannot be: an error of this library, or success, never a half.

What is called is read from the package itself: its public classes and functions, their public methods, and the
arguments of each. Whoever adds one is asked for it here.
"""

import enum
import inspect
import itertools
import math
import pickle
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import MagicMock, Mock, NonCallableMock

import numpy
import pytest

import aether_sync
from aether_sync import (
    ANY_VERSION,
    DBAPI,
    AetherError,
    Connection,
    Delivery,
    Event,
    EventBus,
    EventStored,
    InMemoryEventStore,
    InvalidEventError,
    InvalidNamespaceError,
    InvalidOptionError,
    JetStreamEventStore,
    NATSCluster,
    NATSEventBus,
    NATSServer,
    ReadYourWrites,
    Snapshot,
    SQLite,
    Subscription,
    SubscriptionFilter,
    UnsupportedError,
    VersionConflictError,
)
from aether_sync._arguments import LONGEST
from aether_sync.connection import ConnectionOptions
from aether_sync.stores._jetstream.follower import JetStreamFollower
from aether_sync.stores._memory_log import LogFollower

from ..support.common import UNIT
from ..support.inside import open_consumptions
from ..support.typed import Cancelled, typed

# -- what is given


class Mine(Exception):  # it is raised by what is given, and never to be seen
    pass


def fails(*_: object, **__: object) -> Any:
    raise Mine("of the user's own code")


_NAMES = """
    eq ne lt le gt ge hash bool len iter next contains getitem str repr format bytes float int index complex trunc round
    floor ceil abs add radd sub rsub mul rmul neg fspath reduce_ex enter exit
"""
_METHODS = {f"__{name}__": fails for name in _NAMES.split()}
_OF_STR = dict.fromkeys(("split", "strip", "encode", "isprintable", "startswith", "find", "replace"), fails)

Evil = type("Evil", (), {**_METHODS, "__getattr__": fails})
Faceless = type("Faceless", (), {**_METHODS, "__class__": property(fails)})
EvilStr = type("EvilStr", (str,), {**_METHODS, **_OF_STR})
EvilInt = type("EvilInt", (int,), _METHODS)
EvilFloat = type("EvilFloat", (float,), _METHODS)
EvilList = type("EvilList", (list,), {"__iter__": fails, "__len__": fails, "__repr__": fails})
EvilDict = type("EvilDict", (dict,), dict.fromkeys(("__iter__", "__len__", "__repr__", "items", "keys"), fails))
EvilMapping = type("EvilMapping", (Mapping,), _METHODS)


class Number(enum.IntEnum):
    TWO = 2
    THREE = 3


class Zone(tzinfo):
    def __init__(self, answer: Callable[[], Any]) -> None:
        self._answer = answer

    def utcoffset(self, when: object) -> Any:
        return self._answer()


class NotATime(datetime):
    """As pandas' NaT: an instance of datetime by its type, and no moment."""

    def utcoffset(self) -> Any:
        raise ValueError("NaTType does not support utcoffset")


def values() -> dict[str, Any]:
    """What every argument is given, each time anew."""
    return {
        **{repr(one): one for one in (None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63), 2**64)},
        **{repr(one): one for one in (0.0, -0.0, 0.5, 2.5, -1.5, 1e-300, 1e300, -1e300, 1j)},
        **{repr(one): one for one in (math.nan, math.inf, -math.inf, "", "x", "a b", "a.*", ">", "\0", "\ud800", "é")},
        **{repr(one): one for one in (b"x", [], ["x"], [1], (), {}, {"a": 1}, {"x"}, Decimal("1.5"), Decimal("NaN"))},
        **{
            repr(one): one
            for one in (Decimal("sNaN"), Decimal("1e9999"), Decimal("-1e9999"), Fraction(1, 3), Number.TWO)
        },
        "10**400": 10**400,
        "-10**400": -(10**400),
        "10**5000": 10**5000,
        "huge fraction": Fraction(10**400, 3),
        "long text": "x" * 100_000,
        "long bytes": b"x" * 100_000,
        "path": Path("nowhere/at-all"),
        "path with nul": Path("a\0b"),
        "np.int64": numpy.int64(3),
        "np.uint8": numpy.uint8(0),
        "np.float32": numpy.float32(0.5),
        "np.float64 nan": numpy.float64("nan"),
        "np.bool": numpy.bool_(True),
        "np.complex": numpy.complex64(1 + 2j),
        "np.array": numpy.array([1, 2]),
        "np.array of none": numpy.array(1),
        "np.str": numpy.str_("x"),
        "np.datetime64": numpy.datetime64("NaT", "s"),
        "evil": Evil(),
        "faceless": Faceless(),
        "evil str": EvilStr("x"),
        "evil int": EvilInt(3),
        "evil float": EvilFloat(0.5),
        "evil list": EvilList(["x"]),
        "evil dict": EvilDict(a=1),
        "evil mapping": EvilMapping(),
        "generator": (n for n in range(3)),
        "function": fails,
        "class": Evil,
        "module": math,
        "mock": Mock(),
        "magic mock": MagicMock(),
        "mock of an event": NonCallableMock(spec=Event),
        "mock of a str": Mock(spec=str),
        "mock of a connection": Mock(spec=Connection),
        "datetime.min": datetime.min,
        "first moment, east": datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
        "last moment, west": datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
        "moment, folded": datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=UTC),
        "zone that raises": datetime(2026, 1, 1, tzinfo=Zone(fails)),
        "zone that lies": datetime(2026, 1, 1, tzinfo=Zone(lambda: "soon")),
        "no moment": NotATime(2026, 1, 1),
        "no moment, aware": NotATime(2026, 1, 1, tzinfo=UTC),
        "timedelta": timedelta(seconds=1),
        "event": event(),
    }


# -- what is called


def event() -> Event:
    return Event(event_type="T", actor_id="a", data={"n": 1})


def counted(number: int, _: object) -> int:
    return number + 1


def scenarios() -> aether_sync.Scenarios[int]:
    return aether_sync.Scenarios(initial=int, evolve=counted)


class World:
    """What the methods belong to, made when it is needed."""

    def __init__(self, server: NATSServer, prefix: str) -> None:
        self.local = EventBus()
        self.memory = InMemoryEventStore(types=typed())
        self.bus = NATSEventBus(server.url, prefix=prefix)
        self.store = JetStreamEventStore(server.url, prefix)
        self._url = server.url
        self._folder = TemporaryDirectory()
        self.path = f"{self._folder.name}/read.db"

    def close(self) -> None:
        self._folder.cleanup()
        for one in (self.local, self.memory, self.bus, self.store):
            one.close()

    def subscription(self) -> Subscription:
        found = self.local.subscribe("n")
        self.local.publish_many("n", [event()] * 3)
        return found

    def log_follower(self) -> LogFollower:
        self.memory.append("a", event(), expected_version=ANY_VERSION)
        return self.memory.follow()  # type: ignore[return-value]

    def follower(self) -> JetStreamFollower:
        self.store.append("a", event(), expected_version=ANY_VERSION)
        return self.store.follow()

    def consumption(self) -> aether_sync.Consumption:
        self.store.append("a", *(event() for _ in range(3)), expected_version=ANY_VERSION)
        return self.store.consumer("c", max_deliver=1_000_000).iterate()

    def consumer(self) -> aether_sync.Consumer:
        consumer = self.store.consumer("c")
        consumer.iterate().close()
        return consumer

    def delivery(self) -> Delivery:
        self.store.append("a", event(), expected_version=ANY_VERSION)
        with self.store.consumer("d", max_deliver=1_000_000).iterate() as deliveries:
            return deliveries.get(timeout=20 * UNIT)

    def repository(self) -> aether_sync.Repository[int]:
        return aether_sync.Repository(self.memory, initial=int, evolve=counted, snapshot_every=1)

    def runner(self) -> aether_sync.Runner:
        runner = self.store.consumer("r", max_deliver=1).run(fails)
        runner.close()
        return runner

    def subscription_runner(self) -> aether_sync.SubscriptionRunner:
        runner = self.local.run("n", fails)
        runner.close()
        return runner

    def connection(self) -> Connection:
        return Connection(self._url)

    def state(self, owner: str) -> tuple[object, ...]:
        """What a call that fails leaves as it is."""
        return (
            self.store.last_sequence() if owner == "JetStreamEventStore" else 0,
            sum(not one.closed for one in open_consumptions(self.store)),
            (local := self.local.metrics()).published,
            local.active_subscriptions,
            self.memory.last_sequence(),
            (clustered := self.bus.metrics()).published,
            clustered.active_subscriptions,
        )


class Fresh:
    """A good argument that is made for each call."""

    def __init__(self, make: Callable[[], object]) -> None:
        self.make = make


#: Whose methods they are: made for each call, and closed after it.
OWNERS: dict[str, Callable[[World], Any]] = {
    "Connection": World.connection,
    "Consumer": World.consumer,
    "Consumption": World.consumption,
    "Delivery": World.delivery,
    "Event": lambda _: event(),
    "EventBus": lambda world: world.local,
    "EventBus.close": lambda _: EventBus(),
    "InMemoryEventStore.close": lambda _: InMemoryEventStore(),
    "JetStreamEventStore.close": lambda _: JetStreamEventStore(),
    "EventStored": lambda _: EventStored,
    "EventTypes": lambda _: typed(),
    "InMemoryEventStore": lambda world: world.memory,
    "JetStreamEventStore": lambda world: world.store,
    "JetStreamFollower": World.follower,
    "LogFollower": World.log_follower,
    "NATSEventBus": lambda world: world.bus,
    "NATSEventBus.close": lambda _: NATSEventBus(),
    "NATSCluster": lambda _: NATSCluster(binary="/nowhere/nats-server"),
    "NATSServer": lambda _: NATSServer(binary="/nowhere/nats-server"),
    "DBAPI": lambda _: DBAPI(lambda: None),
    "Projection": lambda world: world.memory.project("p", lambda db, stored: None, into=SQLite(world.path)),
    "Runner": World.runner,
    "ReadYourWrites": lambda world: ReadYourWrites(
        lambda environ, start_response: [],
        projections=[world.memory.project("p", lambda db, stored: None, into=SQLite(world.path))],
        secret="a secret of the tests",
    ),
    "SQLite": lambda world: SQLite(world.path),
    "Given": lambda _: scenarios().given(),
    "Repository": World.repository,
    "RetryPolicy": lambda _: aether_sync.RetryPolicy(),
    "Scenarios": lambda _: scenarios(),
    "Subscription": World.subscription,
    "SubscriptionFilter": lambda _: SubscriptionFilter(event_types={"T"}, actor_pattern="a*"),
    "SubscriptionRunner": World.subscription_runner,
    "Worker": lambda world: aether_sync.Worker(bus=world.local, store=world.memory),
}

#: Good arguments, where there is no default or it would take long.
GOOD: dict[str, Any] = {
    "apply": Fresh(lambda: lambda db, stored: None),
    "connect": Fresh(lambda: lambda: None),
    "error": ValueError("of the database"),
    "into": SQLite("/tmp/never-made.db"),
    "app": Fresh(lambda: lambda environ, start_response: []),
    "environ": Fresh(lambda: {"REQUEST_METHOD": "GET"}),
    "start_response": Fresh(lambda: lambda *given: None),
    "project.name": "p",
    "projection": Fresh(lambda: InMemoryEventStore().project("p", lambda db, stored: None, into=SQLite("/tmp/n.db"))),
    "projections": Fresh(
        lambda: [InMemoryEventStore().project("p", lambda db, stored: None, into=SQLite("/tmp/n.db"))]
    ),
    "secret": "a secret of the tests",
    "methods": ["GET"],
    "tables": ["t"],
    "actor_id": "a",
    "actor_ids": "a",
    "consume.name": "c",
    "consumer.name": "c",
    "event": Fresh(event),
    "event_type": "T",
    "events": Fresh(event),
    "expected_version": ANY_VERSION,
    "function": Fresh(lambda: lambda: None),
    "decide_together.actor_ids": ("a", "b"),
    "decision": Fresh(lambda: lambda _: None),
    "evolve": Fresh(lambda: counted),
    "handler": Fresh(lambda: lambda _: None),
    "initial": int,
    "kind": ValueError,
    "store": Fresh(InMemoryEventStore),
    "max_events": 1,
    "name": None,
    "namespace": "n",
    "pattern": "a*",
    "patterns": "n",
    "reason": "because",
    "sequence": 1,
    "snapshot": Fresh(lambda: Snapshot(actor_id="a", version=1, state={})),
    "subscription": Fresh(lambda: None),
    "timeout": 0.2,
    "type": dict,
    "version": 1,
    "prefix": "other",
    "publish_many.events": Fresh(lambda: [event()]),
    "save_events.events": Fresh(lambda: [event().replace(version=10**6)]),
    "save_event.event": Fresh(lambda: event().replace(version=10**6)),
    "set_broadcaster.bus": None,
    "wait_for.sequence": 0,
    "following.version": 0,
    "event.name": "New",
    "upcast.name": "New",
    "value": Fresh(Cancelled),
    "following.timeout": None,
    "EventStored.version": 1,
    "close.timeout": 1.0,
    "timestamp": 0,
    "event_id": "i",
}

#: What is public and takes no argument that could be wrong, or takes what the library itself made.
NOT_CALLED = {
    "CloseReport", "ConsumerState", "LoadedActor", "MalformedRecord", "Metrics", "DeadLetter", "Reading", "Snapshot",
    "StoredEvent", "SubscriptionStats",  # values; a snapshot is checked where it is saved
    "ActorState", "Decided", "DecidedTogether",  # values
    "When",  # its methods raise AssertionError; tests of scenarios give them what they cannot be
    "CallMetrics", "Finding", "FollowerStats", "HandlingContext", "Health", "Histogram", "Notice", "Operation",
    "RunnerMetrics", "StoreMetrics",  # values, too
    "SetAside", "ReadYourWritesStats",  # further values
    "Failure", "HandlerMetrics", "WorkerMetrics",  # values of a worker
    "AnyVersion", "EventStore", "Follower", "VersionListener", "Handleable", "HasHealth",  # an enum and protocols
    "Database", "Link",  # protocols, too
    "HandlingFilter",  # as every logging.Filter
    "EventStored", "ProjectionAdvanced",  # as every Struct: the decoder makes them, and checks
    "ConnectionOptions",  # the arguments of Connection, which checks them
    # made by others:
    "Consumer", "Consumption", "Delivery", "Given", "Projection", "Runner", "Subscription", "SubscriptionRunner",
    "JetStreamFollower", "LogFollower",
}  # fmt: skip

OPTIONS: dict[str, Any] = {
    "EventBus.subscribe_to_event_stored": [
        name for name in inspect.signature(EventBus.subscribe).parameters if name not in ("self", "patterns", "filter")
    ],
    "JetStreamEventStore": sorted(ConnectionOptions.__optional_keys__),
    "NATSEventBus": sorted(ConnectionOptions.__optional_keys__),
    "NATSEventBus.subscribe_to_event_stored": ["maxsize"],
    "Event.replace": list(Event.__struct_fields__),
    "Event.with_metadata": ["user_id", "other"],
}

_KINDS = inspect.Parameter
_SKIPPED = {"args", "kwargs", "options", "changes"}


class Argument(typing.NamedTuple):
    """One argument of something public."""

    owner: str  # the class, or "" for a function
    method: str  # or "" for the class itself
    name: str
    is_star: bool

    def __str__(self) -> str:
        return f"{'.'.join(filter(None, (self.owner, self.method)))}({self.name})"


def classes() -> dict[str, type]:
    found = {name: getattr(aether_sync, name) for name in aether_sync.__all__}
    own = {name: one for name, one in found.items() if isinstance(one, type) and not issubclass(one, BaseException)}
    return own | {"JetStreamFollower": JetStreamFollower, "LogFollower": LogFollower}


def arguments() -> Iterator[Argument]:
    for name, one in classes().items():
        if name not in NOT_CALLED:
            yield from arguments_of(one, name, "")
        for method, function in inspect.getmembers(one, callable):
            if not method.startswith("_") and name in OWNERS:
                yield from arguments_of(function, name, method)
    for name in ("actor_type", "handling", "health_app", "retry_on_conflict"):
        yield from arguments_of(getattr(aether_sync, name), "", name)


def arguments_of(function: Callable[..., Any], owner: str, method: str) -> Iterator[Argument]:
    for one in inspect.signature(function).parameters.values():
        if one.name not in _SKIPPED | {"self"}:
            yield Argument(owner, method, one.name, one.kind is _KINDS.VAR_POSITIONAL)
    for option in OPTIONS.get(".".join(filter(None, (owner, method))), ()):
        yield Argument(owner, method, option, False)


def good(argument: Argument, name: str) -> Any:
    found = next((GOOD[key] for key in (f"{argument.method}.{name}", name) if key in GOOD), None)
    return found.make() if isinstance(found, Fresh) else found


def call(owner: Any, argument: Argument, value: Any) -> Any:
    """Call it with one hostile argument, all others good."""
    function = getattr(owner, argument.method) if argument.method else owner
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for one in inspect.signature(function).parameters.values():
        given = value if one.name == argument.name else good(argument, one.name)
        if one.name in _SKIPPED:
            continue
        if one.kind is _KINDS.VAR_POSITIONAL or (
            one.kind is _KINDS.POSITIONAL_OR_KEYWORD and one.default is _KINDS.empty
        ):
            positional.append(given)
        elif (
            one.name == argument.name
            or one.default is _KINDS.empty
            or (one.name in ("timeout", "expected_version", "event_type", "actor_id"))
        ):
            named[one.name] = given
    if argument.name not in inspect.signature(function).parameters:
        named[argument.name] = value
    return function(*positional, **named)


def test_all_that_is_public_is_called() -> None:
    assert set(classes()) <= NOT_CALLED | set(OWNERS)
    for name, _, method in (one.partition(".") for one in {*OPTIONS, *OWNERS}):
        assert hasattr(classes()[name], method or "__init__"), "what is listed is there"
    assert len(list(arguments())) > 200


@pytest.fixture
def world(server: NATSServer, prefix: str) -> Iterator[World]:
    world = World(server, prefix)
    yield world
    world.close()


def of_each_call() -> list[list[tuple[int, Argument]]]:
    """The arguments of one method after the other, each with its number."""
    numbered = enumerate(arguments())
    return [list(group) for _, group in itertools.groupby(numbered, key=lambda one: one[1][:2])]


def called(group: list[tuple[int, Argument]]) -> str:
    return ".".join(filter(None, group[0][1][:2]))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(
    "quarters", [{0}, pytest.param({1, 2, 3}, marks=pytest.mark.slow)], ids=["a quarter", "the rest"]
)
@pytest.mark.parametrize("group", of_each_call(), ids=called)
def test_whatever_is_given(
    group: list[tuple[int, Argument]], quarters: set[int], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which values a quarter has differs from argument to argument, so that each value is given to some."""
    monkeypatch.setenv("NATS_URL", world._url)
    found = [
        f"{argument}, {what}: {fault}"
        for number, argument in group
        for place, (what, value) in enumerate(values().items(), number)
        if place % 4 in quarters
        # What a function of the user's raises is raised.
        if not (argument.name == "decision" and what in ("function", "class"))
        for fault in faults_of_a_call(argument, value, world)
    ]
    assert not found, "\n".join(found)


def faults_of_a_call(argument: Argument, value: Any, world: World) -> Iterator[str]:
    make = OWNERS.get(f"{argument.owner}.{argument.method}") or OWNERS.get(argument.owner)
    owner = make(world) if argument.method and make else getattr(aether_sync, argument.owner, aether_sync)
    before = world.state(argument.owner)
    result: Any = None
    try:
        result = call(owner, argument, value)
    except AetherError as error:
        said = str(error)
        if not (said.isprintable() and 10 < len(said) < 700):
            yield f"a message that does not help: {said[:200]!r}"
        after = world.state(argument.owner)
        if after != before:
            yield f"something is done by half: {before}, {after}"
    except Exception as error:
        yield f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        lasting = (world.local, world.memory, world.bus, world.store)
        for one in (result, owner):
            if type(one).__module__.startswith("aether_sync") and one not in lasting:
                with suppress(AttributeError):
                    one.close()


# -- what the refusals say, and what is taken


def said(work: Callable[[], object], error: type[AetherError] = InvalidOptionError) -> str:
    with pytest.raises(error) as caught:
        work()
    return str(caught.value)


def test_a_timestamp_that_is_no_moment_is_named() -> None:
    text = said(lambda: Event(event_type="T", actor_id="a", timestamp=NotATime(2026, 1, 1)), InvalidEventError)
    assert "timestamp must be a moment" in text
    assert "NaTType" in text


@pytest.mark.parametrize("endless", [math.inf, 1e300, 10**400, Fraction(10**400), Decimal("1e9999"), None])
def test_a_timeout_may_be_endless(endless: Any, local_bus: EventBus) -> None:
    with local_bus.subscribe("n", timeout=endless) as events:
        local_bus.publish("n", event())
        assert events.get(timeout=endless).actor_id == "a"


@pytest.mark.parametrize("span", [1e300, 10**400, 2**63, Decimal("1e9999")])
def test_a_span_that_no_clock_counts_is_refused(span: Any, store: JetStreamEventStore) -> None:
    assert "ack_wait must be seconds, at most 9223372036" in said(lambda: store.consumer("c", ack_wait=span))
    assert "ping_interval" in said(lambda: Connection(ping_interval=span))
    assert "retry_delay" in said(lambda: store.consumer("c").run(fails, retry_delay=span))
    store.append("a", event(), expected_version=ANY_VERSION)
    with store.consumer("c").iterate() as deliveries:
        delivery = deliveries.get(timeout=20 * UNIT)
        assert "delay must be seconds" in said(lambda: delivery.nak(span))
        assert not delivery.settled
        delivery.nak(2**33)  # the longest that there is, nearly


@pytest.mark.parametrize("option", ["retry_delay", "prefetch", "threads"])
def test_what_a_runner_is_not_run_with_leaves_no_consumption(store: JetStreamEventStore, option: str) -> None:
    options: dict[str, Any] = {option: 0}
    assert option in said(lambda: store.consumer("c").run(fails, dead_letters=True, **options))
    assert not open_consumptions(store)


@pytest.mark.parametrize("span", [1e-300, 1e-9])
def test_an_interval_of_nothing_is_refused(span: float, store: JetStreamEventStore) -> None:
    assert "0.001 or more" in said(lambda: store.consumer("c", ack_wait=span))
    assert "0.001 or more" in said(lambda: Connection(ping_interval=span))


@pytest.mark.parametrize("make", [numpy.int64, numpy.uint8, EvilInt, lambda _: Number.THREE])
def test_whole_numbers_of_others_are_taken_as_ints(make: Callable[[int], Any], local_bus: EventBus) -> None:
    number = make(3)
    stored = InMemoryEventStore().save_event(Event(event_type="T", actor_id="a", version=number))
    assert type(stored.event.version) is int
    assert stored.event.version == 3
    with local_bus.subscribe("n", maxsize=number) as events:
        local_bus.publish_many("n", [event()] * 5)
        assert len(events.get_batch(number)) == 3
        assert events.stats().dropped == 2


@pytest.mark.parametrize("make", [numpy.float32, Decimal, Fraction, EvilFloat])
def test_real_numbers_of_others_are_taken_as_seconds(make: Callable[[float], Any], local_bus: EventBus) -> None:
    seconds = make(0.25)
    assert local_bus.wait_connected(timeout=seconds)
    assert Connection(connect_timeout=seconds)._options.connect_timeout == 0.25


@pytest.mark.parametrize("sign", [1, -1])
def test_an_int_without_a_text_breaks_no_message(sign: int, local_bus: EventBus) -> None:
    huge = sign * 10**5000
    assert "maxsize must be a whole number, 1 or more" in said(lambda: local_bus.subscribe("n", maxsize=huge))
    assert "version" in said(lambda: Event(event_type="T", actor_id="a", version=huge), InvalidEventError)


def test_what_an_iterator_of_the_users_raises_is_the_users(local_bus: EventBus) -> None:
    def broken() -> Iterator[Any]:
        yield event().replace(version=1)
        fails()

    memory = InMemoryEventStore()
    for work in (
        lambda: local_bus.publish_many("n", broken()),
        lambda: memory.save_events(broken()),
        lambda: SubscriptionFilter(event_types=broken()),
    ):
        with pytest.raises(Mine):
            work()
    assert local_bus.metrics().published == memory.last_sequence() == 0


class TestAConflict:
    def test_of_who_expected_no_events(self) -> None:
        store = InMemoryEventStore()
        store.append("a", event(), event(), expected_version=0)
        text = said(lambda: store.append("a", event(), expected_version=0), VersionConflictError)
        assert text == (
            "actor 'a' is at version 2, and was expected to have no events: nothing was stored; load it, and decide on "
            "what is there"
        )

    @pytest.mark.parametrize("expected", [1, 3])
    def test_of_who_expected_another_version(self, expected: int, store: JetStreamEventStore) -> None:
        for one in (store, InMemoryEventStore()):
            one.append("a", event(), event(), expected_version=0)
            with pytest.raises(
                VersionConflictError, match=f"at version 2, and expected_version was {expected}"
            ) as caught:
                one.append("a", event(), expected_version=expected)
            assert (caught.value.expected_version, caught.value.current_version) == (expected, 2)
            assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)

    def test_of_an_event_with_a_version(self) -> None:
        store = InMemoryEventStore()
        store.append("a", event(), event(), expected_version=0)
        text = said(lambda: store.save_event(event().replace(version=2)), VersionConflictError)
        assert "at version 2, so version 2 was not stored: load it again" in text


class TestWhatAnInMemoryStoreHasNot:
    NOT_HERE = sorted(
        name for name in set(dir(JetStreamEventStore)) - set(dir(InMemoryEventStore)) if not name.startswith("_")
    )

    @pytest.mark.parametrize("name", NOT_HERE)
    def test_is_an_error_that_says_what_has_it(self, name: str) -> None:
        store = InMemoryEventStore()
        with pytest.raises(UnsupportedError, match=f"InMemoryEventStore has no {name}: an in-memory store has no "):
            getattr(store, name)
        assert not hasattr(store, name)

    def test_it_is_what_a_server_is_for(self) -> None:
        assert {"connection", "start", "stream"} == set(self.NOT_HERE)

    def test_a_slip_of_the_pen_is_an_attribute_error(self) -> None:
        with pytest.raises(AttributeError, match="has no attribute 'sove_event'") as caught:
            InMemoryEventStore().sove_event  # type: ignore[attr-defined]
        assert not isinstance(caught.value, AetherError)


def test_a_pattern_of_actors_is_called_as_its_caller_does() -> None:
    store, anything = InMemoryEventStore(), typing.cast(Any, 5)
    assert "actors must be a pattern of actor ids" in said(lambda: store.follow(actors=anything))
    assert "pattern must be a pattern of actor ids" in said(lambda: store.actors(anything))
    assert "actor_pattern must be a pattern of actor ids" in said(lambda: SubscriptionFilter(actor_pattern=anything))


def test_namespaces_are_of_the_tree(local_bus: EventBus) -> None:
    anything: Any = 10**400
    text = said(lambda: local_bus.publish(anything, event()), InvalidNamespaceError)
    assert "namespace must be a str, not int" in text


@pytest.mark.both_loops
@pytest.mark.parametrize("span", [LONGEST, 2**31])
def test_the_longest_span_works(
    span: float, make_bus: Callable[..., NATSEventBus], server: NATSServer, prefix: str
) -> None:
    bus = make_bus(connect_timeout=span, ping_interval=span, publish_timeout=span)
    with bus.subscribe("n", timeout=span) as events:
        bus.publish("n", event())
        bus.flush(span)
        assert events.get(timeout=span).actor_id == "a"
    with JetStreamEventStore(bus.connection, prefix) as store:
        store.append("a", event(), expected_version=ANY_VERSION, timeout=span)
        with store.consumer("c", ack_wait=span).iterate(timeout=span) as deliveries:
            deliveries.get(timeout=span).ack(confirm=True, timeout=span)


# -- options that nobody has


@pytest.mark.parametrize("kind", [NATSEventBus, JetStreamEventStore])
@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("outbox_event", "did you mean outbox_events?"),
        ("conect_timeout", "did you mean connect_timeout?"),
        ("namespaces", "did you mean namespace?"),
        ("nkey", "did you mean nkeys_seed?"),
        ("creds", "did you mean credentials?"),
        ("context", "make the connection with Connection.from_context()"),
        ("foo", "it has "),
    ],
)
def test_an_unknown_option_names_the_class_that_was_called(kind: type, option: str, hint: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        kind(**{option: 1})
    assert str(caught.value).startswith(f"{kind.__name__} has no option {option!r}: {hint}")
    if option == "foo":
        named = set(re.findall(r"\w+", str(caught.value).partition("it has ")[2]))
        own = {one.name for one in inspect.signature(kind).parameters.values() if one.kind is one.KEYWORD_ONLY}
        assert named == own | ConnectionOptions.__optional_keys__


def test_an_unknown_option_beside_a_shared_connection_is_the_stores() -> None:
    connection = Connection("nats://127.0.0.1:1")  # nothing is begun before the first use
    with pytest.raises(InvalidOptionError, match="Store has no option 'snapshot_kept': did you mean snapshots_kept"):
        JetStreamEventStore(connection, snapshot_kept=3)  # type: ignore[call-arg]
    with pytest.raises(InvalidOptionError, match="give that to the Connection"):
        JetStreamEventStore(connection, user="u")


@pytest.mark.parametrize("value", ["false", "", 0, 1, None, [], object()])
def test_a_flag_is_true_or_false(value: object) -> None:
    with pytest.raises(InvalidOptionError, match="tls_handshake_first must be True or False"):
        Connection(tls_handshake_first=value)  # type: ignore[arg-type]
