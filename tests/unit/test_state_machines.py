"""The connection and the subscription registry as state machines, against a real server that is there or is not."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aether_sync import (
    AetherError,
    BusClosedError,
    Connection,
    DeadlineExceededError,
    DeliveryUncertainError,
    NATSEventBus,
    NATSServer,
    PublishTimeoutError,
    Subscription,
)
from aether_sync._nats import servers
from aether_sync._nats.link import Link, LinkState

from ..support.common import PATIENCE, UNIT, Monitor, eventually, make_event, run_threads

T = TypeVar("T")

#: How many times as many examples as in a run of all tests.
TIMES = int(os.environ.get("AETHER_TEST_EXAMPLES", "1"))
MARGIN = 2 * UNIT  # seconds: how late a call may end
PING_INTERVAL = 0.25 * UNIT  # a frozen server is left after two

short = st.sampled_from([0.0, 0.02 * UNIT, 0.2 * UNIT])


def bounded(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples * TIMES,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # what fails is as much a matter of timing as of steps: a smaller example misleads
        suppress_health_check=list(HealthCheck),
    )


def timed(call: Callable[[], T], timeout: float) -> T:
    """Call, and see the call end in time, whatever way."""
    start = time.monotonic()
    try:
        return call()
    finally:
        assert time.monotonic() - start < timeout + MARGIN, "it ended too late"


@pytest.fixture(autouse=True, scope="module")
def _tries_again_soon() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(servers, "_PAUSE", 0.05)
        yield


def connect(url: str) -> Connection:
    """A connection that notices soon."""
    return Connection(url, ping_interval=PING_INTERVAL, outbox_events=500)


# -- the connection

S = LinkState

#: What is drawn in the docstring of link.py.
ARROWS = {
    (S.NEW, S.CONNECTING),
    (S.CONNECTING, S.CONNECTED),
    (S.CONNECTED, S.RECONNECTING),
    (S.RECONNECTING, S.CONNECTED),
    *((state, S.CLOSED) for state in S),
}


class ConnectionMachine(RuleBasedStateMachine):
    """Publishes by one bus; two others receive: *near* by the same connection, *far* by its own.

    What a server confirmed, near has received: on one connection it comes before the confirmation. Far may miss what
    was published while it was disconnected. Neither gets anything twice. Uncertain events, and no others, may be lost,
    or come late: a server that was paused finds them on a connection that was left, behind newer ones on the next.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moves: list[tuple[LinkState, LinkState]] = []
        self.enter = Link._set_state

        def enter(link: Link, state: LinkState) -> None:
            self.moves.append((link.state, state))
            self.enter(link, state)

        Link._set_state = enter  # type: ignore[method-assign]
        self.server = NATSServer(jetstream=False)
        self.server.start()
        self.is_paused = False
        self.connection = connect(self.server.url)
        self.bus = NATSEventBus(self.connection, publish_timeout=0.1 * UNIT)
        self.near_bus = NATSEventBus(self.connection)
        self.far_bus = NATSEventBus(connect(self.server.url))
        self.near = self.near_bus.subscribe("n", maxsize=10**6)
        self.far = self.far_bus.subscribe("n", maxsize=10**6)
        self.more: list[Subscription] = []
        self.accepted = 0  # events are numbered in this order
        self.judged = 0  # of them, until the last flush that had an outcome
        self.sure: set[int] = set()
        self.uncertain = 0  # as flushes told
        self.seen: dict[str, list[int]] = {"near": [], "far": []}

    # -- the server

    @precondition(lambda self: self.server.is_running)
    @rule()
    def stop(self) -> None:
        self.server.stop()
        self.is_paused = False

    @precondition(lambda self: self.server.is_running)
    @rule()
    def kill(self) -> None:
        self.server.kill()
        self.is_paused = False

    @precondition(lambda self: not self.server.is_running)
    @rule()
    def start(self) -> None:
        self.server.start()

    @precondition(lambda self: self.server.is_running and not self.is_paused)
    @rule()
    def pause(self) -> None:
        self.server.pause()
        self.is_paused = True

    @precondition(lambda self: self.is_paused)
    @rule(outwait=st.booleans())
    def resume(self, outwait: bool) -> None:
        if outwait:
            eventually(lambda: not self.bus.is_connected, "the end of a connection to a frozen server")
        self.server.resume()
        self.is_paused = False

    @precondition(lambda self: self.server.is_running and not self.is_paused)
    @rule(count=st.integers(1, 100))
    def lose(self, count: int) -> None:
        """Have events written to a server that never reads them."""
        self.settle()
        self.server.pause()
        self.publish_many(count)
        eventually(
            lambda: self.bus.metrics().outbox_events == 0 or not self.bus.is_connected,  # a busy machine was left
            "the last event written",
        )
        self.server.kill()

    # -- the bus

    @rule(count=st.integers(1, 300))
    def publish_many(self, count: int) -> None:
        self.publish(lambda events: self.bus.publish_many("n", events), count)

    @rule(count=st.integers(1, 5))
    def publish_one_by_one(self, count: int) -> None:
        for _ in range(count):
            self.publish(lambda events: self.bus.publish("n", events[0]), 1)

    def publish(self, publish: Callable[[list[Any]], None], count: int) -> None:
        events = [make_event(self.accepted + n) for n in range(count)]
        with suppress(PublishTimeoutError):
            timed(lambda: publish(events), 0.1 * UNIT)
            self.accepted += count

    @rule(timeout=short)
    def flush(self, timeout: float) -> None:
        with suppress(DeadlineExceededError):
            timed(lambda: self.judge(timeout), timeout)

    def judge(self, timeout: float) -> None:
        accepted = self.accepted
        try:
            self.bus.flush(timeout)
        except DeliveryUncertainError as error:
            self.uncertain += error.uncertain
        else:
            self.sure |= set(range(self.judged, accepted))
        self.judged = accepted

    @rule(timeout=short)
    def wait_connected(self, timeout: float) -> None:
        connected = timed(lambda: self.bus.wait_connected(timeout), timeout)
        assert connected or not timeout or self.is_paused or not self.server.is_running or self.moves

    @rule(timeout=short)
    def subscribe(self, timeout: float) -> None:
        with suppress(DeadlineExceededError):
            self.more.append(timed(lambda: self.near_bus.subscribe("n", "*", timeout=timeout), timeout))
        if len(self.more) > 2:
            self.more.pop(0).close()

    @rule()
    def settle(self) -> None:
        """Let the server be there, and count."""
        if self.is_paused:
            self.server.resume()
            self.is_paused = False
        self.server.start()
        assert self.bus.wait_connected(PATIENCE)
        assert self.far_bus.wait_connected(PATIENCE)
        self.judge(PATIENCE)
        metrics = self.bus.metrics()
        assert metrics.outbox_events == 0
        assert metrics.uncertain == self.uncertain
        eventually(lambda: self.read("near") >= self.sure, "all that is confirmed")
        eventually(lambda: self.accepted - len(self.read("near")) <= self.uncertain, "all but the uncertain ones")
        with self.far_bus.subscribe("probe") as probe:
            self.bus.publish("probe", make_event())
            assert probe.get(timeout=PATIENCE)

    def read(self, name: str) -> set[int]:
        subscription: Subscription = getattr(self, name)
        seen = self.seen[name]
        with suppress(AetherError):  # closed, in the end
            seen += [event.data["n"] for event in subscription.get_batch(10**6, timeout=0)]
        return set(seen)

    # -- what holds at any time

    @invariant()
    def nothing_comes_twice_and_order_is_kept(self) -> None:
        for name, seen in self.seen.items():
            numbers = self.read(name)
            assert len(numbers) == len(seen), f"{name}: twice"
            assert numbers <= set(range(self.accepted)), f"{name}: what was not accepted"
            highest, late = -1, 0
            for n in seen:
                late += n < highest
                highest = max(highest, n)
            assert late <= self.bus.metrics().uncertain, f"{name}: out of order"

    @invariant()
    def counts_agree(self) -> None:
        metrics = self.bus.metrics()
        assert metrics.published == self.accepted + metrics.published_by_namespace.get("probe", 0)
        assert metrics.uncertain >= self.uncertain
        assert metrics.outbox_events <= 500
        assert self.near_bus.metrics().decode_errors == 0

    @invariant()
    def states_move_along_the_arrows(self) -> None:
        assert set(self.moves) <= ARROWS

    def teardown(self) -> None:
        try:
            if self.server.is_running:  # a close in the middle of nats-py's attempt to reconnect is another test's
                self.settle()
            uncertain, timeout = self.bus.metrics().uncertain, 0.3 * UNIT
            report = timed(lambda: self.connection.close(timeout), timeout)
            self.read("near")
            lost = self.accepted - len(self.seen["near"])
            told = max(self.bus.metrics().uncertain, uncertain) + report.unsent
            assert lost <= told, "accepted is not confirmed, uncertain or unsent"
            with pytest.raises(BusClosedError):
                self.bus.publish("n", make_event())
            self.states_move_along_the_arrows()
        finally:
            for bus in (self.bus, self.near_bus, self.far_bus):
                bus.close(0.3 * UNIT)
            self.far_bus.connection.close(0.3 * UNIT)
            self.connection.close(0.3 * UNIT)
            self.server.stop(discard=True)
            Link._set_state = self.enter  # type: ignore[method-assign]


TestConnection = pytest.mark.fault(pytest.mark.concurrent(ConnectionMachine.TestCase))
TestConnection.settings = bounded(2, 16)


@pytest.mark.slow
class TestConnectionForLong(TestConnection):
    settings = bounded(8, 16)


# -- the registry

NAMESPACES = ["a.b", "a.c", "a.b.c", "x"]
PATTERNS = ["a.b", "a.c", "x", "a.*", "*.b", "a.>", ">", "a.b*", "a*.b", "*"]


def matches(pattern: str, namespace: str) -> bool:
    """The plainest reading of what a pattern says."""
    wanted, tokens = pattern.split("."), namespace.split(".")
    if wanted[-1] == ">":
        wanted = [*wanted[:-1], "*"]
        tokens = tokens[: len(wanted)]
    return len(wanted) == len(tokens) and all(map(fnmatchcase, tokens, wanted))


@dataclass(eq=False)
class Held:
    """A subscription, and what the model knows of it."""

    node: int
    patterns: tuple[str, ...]
    group: str | None
    subscription: Subscription
    expected: list[int] = field(default_factory=list)
    got: list[int] = field(default_factory=list)

    @property
    def interests(self) -> set[tuple[str, str]]:
        """What the server should know of it."""
        subjects = (
            ".".join("*" if "*" in token else token for token in pattern.split(".")) for pattern in self.patterns
        )
        return {(f"r.events.{subject}", self.group or "") for subject in subjects}

    def wants(self, namespace: str) -> bool:
        return any(matches(pattern, namespace) for pattern in self.patterns)


many_patterns = st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3, unique=True)
one_plain_pattern = st.sampled_from([pattern for pattern in PATTERNS if "b*" not in pattern and "a*" not in pattern])
wishes = st.tuples(
    st.integers(0, 1),
    many_patterns.map(lambda patterns: (patterns, None)) | one_plain_pattern.map(lambda p: ([p], "g")),
)
picks = st.integers(0, 10**6)


class RegistryMachine(RuleBasedStateMachine):
    """Two nodes open and close subscriptions that overlap; each gets each event once, and the server knows no more."""

    def __init__(self) -> None:
        super().__init__()
        self.monitor = Monitor()
        self.server = NATSServer(jetstream=False, config=self.monitor.config)
        self.held: list[Held] = []
        self.next = 0

    @initialize()
    def begin(self) -> None:
        self.server.start()
        self.connections = [connect(self.server.url) for _ in range(2)]
        self.nodes = [NATSEventBus(connection, prefix="r") for connection in self.connections]
        for node in self.nodes:
            node.start()

    def open(self, wish: tuple[int, tuple[list[str], str | None]]) -> None:
        node, (patterns, group) = wish
        subscription = self.nodes[node].subscribe(*patterns, queue_group=group, timeout=PATIENCE)
        self.held.append(Held(node, tuple(patterns), group, subscription))

    def close(self, pick: int) -> None:
        self.held.pop(pick % len(self.held)).subscription.close()

    @rule(wishes=st.lists(wishes, min_size=1, max_size=4))
    def open_some(self, wishes: list[tuple[int, tuple[list[str], str | None]]]) -> None:
        run_threads(*(partial(self.open, wish) for wish in wishes))
        self.check()

    @precondition(lambda self: self.held)
    @rule(pick=picks)
    def close_one(self, pick: int) -> None:
        self.close(pick)
        self.check()

    @rule(kill=st.booleans(), wishes=st.lists(wishes, max_size=3), closing=st.lists(picks, max_size=3))
    def restart(self, kill: bool, wishes: list[Any], closing: list[int]) -> None:
        """Others come and go while the server does."""
        before = [node.metrics().reconnects for node in self.nodes]

        def come_back() -> None:
            if kill:
                self.server.kill()
            else:
                self.server.stop()
            self.server.start()

        def close() -> None:
            for victim in leaving:
                victim.subscription.close()

        leaving = [self.held.pop(pick % len(self.held)) for pick in closing if self.held]
        run_threads(come_back, close, *(partial(self.open, wish) for wish in wishes))
        for node, count in zip(self.nodes, before, strict=True):
            eventually(lambda node=node, count=count: node.metrics().reconnects > count, "a reconnect")  # type: ignore[misc]
            assert node.wait_connected(PATIENCE)
        self.check()

    @rule(node=st.integers(0, 1), namespaces=st.lists(st.sampled_from(NAMESPACES), min_size=1, max_size=4))
    def publish(self, node: int, namespaces: list[str]) -> None:
        chosen: dict[int, list[Held]] = {}  # the server knows a group by its name, whatever its members' patterns
        for namespace in namespaces:
            number, self.next = self.next, self.next + 1
            self.nodes[node].publish(namespace, make_event(number))
            for held in self.held:
                if held.wants(namespace) and held.group is None:
                    held.expected.append(number)
                elif held.wants(namespace):
                    chosen.setdefault(number, []).append(held)
        for one in (self.nodes[node], *self.nodes):  # a node's PONG comes behind what came for it
            one.publish("nobody.here", make_event(-1))
            one.flush(PATIENCE)
        eventually(lambda: self.has_all(len(chosen)), f"all of {namespaces} published at node {node}")
        for held in self.held:
            assert held.group or held.got == held.expected, f"{held} after {namespaces}"
        for number, members in chosen.items():
            assert sum(held.got.count(number) for held in members) == 1, f"{number} for the group"
        assert sum(len(held.got) for held in self.held if held.group) == len(chosen)
        for held in self.held:
            held.expected, held.got = [], []

    def has_all(self, for_groups: int) -> bool:
        """Take what has come, and say whether everyone has as much as the model says, or more."""
        for held in self.held:
            numbers = [event.data["n"] for event in held.subscription.get_batch(1_000, timeout=0)]
            held.got += [number for number in numbers if number >= 0]
        return sum(len(held.got) for held in self.held if held.group) >= for_groups and all(
            len(held.got) >= len(held.expected) for held in self.held if not held.group
        )

    def check(self) -> None:
        """The server has one NATS subscription for each distinct subject and group."""
        for number, node in enumerate(self.nodes):
            wanted = sorted({one for held in self.held if held.node == number for one in held.interests})
            eventually(
                lambda node=node, wanted=wanted: self.monitor.subscriptions_of(node) == wanted,  # type: ignore[misc]
                f"exactly {wanted} at the server",
            )
            assert node.metrics().active_subscriptions == sum(held.node == number for held in self.held)

    def teardown(self) -> None:
        try:
            for held in self.held:
                held.subscription.close()
            self.held.clear()
            self.check()
        finally:
            for connection in self.connections:
                connection.close(UNIT)
            for node in self.nodes:
                node.close(UNIT)
            self.server.stop(discard=True)


TestRegistry = pytest.mark.fault(pytest.mark.concurrent(RegistryMachine.TestCase))
TestRegistry.settings = bounded(2, 20)


@pytest.mark.slow
class TestRegistryForLong(TestRegistry):
    settings = bounded(8, 20)
