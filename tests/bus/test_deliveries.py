"""Who gets what, against a plain model: each event to each who wants it, in order and once, however many at once."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import strategies as st

from aether_sync import Event, EventBus, NATSEventBus, NATSServer, Subscription, SubscriptionFilter
from aether_sync._bus.routing import Deliveries, Target, Targets, failed, make_target

from ..support.common import PATIENCE, eventually, make_event, run_threads
from ..support.fake_server import FakeServer
from ..support.properties import for_all
from ..support.raw import RawClient, forged
from ..support.signals import before

PATIENT = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]

# -- the model


@dataclass(frozen=True)
class Wish:
    """What a subscription asks for."""

    patterns: tuple[str, ...]
    types: frozenset[str] = frozenset()
    actors: str = ""
    group: str | None = None

    def takes(self, namespace: str, event: Event) -> bool:
        return (
            any(is_matched(pattern.split("."), namespace.split(".")) for pattern in self.patterns)
            and (not self.types or event.event_type in self.types)
            and (not self.actors or is_matched(self.actors.split("."), event.actor_id.split(".")))
        )

    @property
    def filter(self) -> SubscriptionFilter | None:
        if not self.types and not self.actors:
            return None
        return SubscriptionFilter(event_types=self.types, actor_pattern=self.actors)


def is_matched(pattern: list[str], tokens: list[str]) -> bool:
    if not pattern or not tokens:
        return pattern == tokens
    if pattern == [">"]:
        return True
    first, _, last = pattern[0].partition("*")
    is_one = tokens[0].startswith(first) and tokens[0].endswith(last) if "*" in pattern[0] else tokens[0] == pattern[0]
    return is_one and is_matched(pattern[1:], tokens[1:])


def check(wishes: list[Wish], published: list[tuple[str, Event]], got: list[list[Event]]) -> None:
    """What each got is what it wants; of a group, somebody who wants it."""
    for wish, events in zip(wishes, got, strict=True):
        if wish.group is None:
            assert numbers(events) == [number(event) for name, event in published if wish.takes(name, event)], wish
    for group in {wish.group for wish in wishes if wish.group is not None}:
        members = [(wish, events) for wish, events in zip(wishes, got, strict=True) if wish.group == group]
        wanted = [number(e) for name, e in published if any(wish.takes(name, e) for wish, _ in members)]
        assert sorted(n for _, events in members for n in numbers(events)) == sorted(wanted), group
        for wish, events in members:
            assert all(wish.takes(event.namespace, event) for event in events)
            assert is_subsequence(numbers(events), wanted)


def number(event: Event) -> Any:
    assert event.data is not None
    return event.data["n"]


def numbers(events: Iterable[Event]) -> list[Any]:
    return [number(event) for event in events]


def is_subsequence(some: list[int], of: list[int]) -> bool:
    rest = iter(of)
    return all(one in rest for one in some)


# -- what is drawn

NAMESPACES = ("a", "b", "a.x", "a.y", "tenant-a.x", "tenant-b.x.y")
PATTERNS = (*NAMESPACES, "*", ">", "a.*", "a.>", "*.x", "tenant-*.x", "*.*.y", "tenant-*.>")
TYPES = ("Placed", "Paid")
ACTORS = ("order-1", "order-2", "user-1")

alone = st.builds(
    Wish,
    st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3).map(tuple),
    st.frozensets(st.sampled_from(TYPES), max_size=1) | st.just(frozenset()),
    st.sampled_from(["", "", "order-*", "user-1", ">"]),
)
in_groups = st.builds(
    Wish,
    st.sampled_from([(pattern,) for pattern in PATTERNS if "-*" not in pattern] + [("a", "b"), ("a.x", "tenant-b.>")]),
    group=st.sampled_from(["g", "h"]),
)
wish_lists = st.lists(alone | in_groups, min_size=1, max_size=8)
#: Runs of events: a namespace, what they are, and how many.
runs = st.lists(
    st.tuples(st.sampled_from(NAMESPACES), st.sampled_from(TYPES), st.sampled_from(ACTORS), st.integers(1, 4)),
    min_size=1,
    max_size=12,
)
Run = tuple[str, str, str, int]


def events_of(runs: list[Run]) -> list[tuple[str, Event]]:
    events = [(namespace, kind, actor) for namespace, kind, actor, count in runs for _ in range(count)]
    return [
        (namespace, Event(event_type=kind, actor_id=actor, data={"n": n}, namespace=namespace))
        for n, (namespace, kind, actor) in enumerate(events)
    ]


# -- gathered


def target_of(wish: Wish, maxsize: int = 1000, max_bytes: int = 10**6, overflow: str = "drop_newest") -> Target:
    return make_target(wish.patterns, wish.filter, maxsize, max_bytes, overflow, wish.group, lambda stats: None)


def hand_over(targets: Targets, published: Iterable[tuple[str, Event]], size: int = 1) -> list[Target]:
    """Gather events and put them into the queues; returns the targets of which a drop is to be logged."""
    deliveries = Deliveries()
    for namespace, event in published:
        deliveries.add(targets.route(namespace), partial(targets.route, namespace), [event], [size])
    return deliveries.hand_over()


def taken(target: Target) -> list[Event]:
    def events() -> Iterator[Event]:
        while True:
            try:
                yield target.queue.pop()
            except IndexError:
                return

    return list(events())


@for_all(wish_lists, runs, examples=(60, 300))
def test_each_event_goes_to_each_who_wants_it_once_and_in_order(wishes: list[Wish], runs: list[Run]) -> None:
    targets = Targets(lambda namespace: None)
    all_of_them = [target_of(wish) for wish in wishes]
    for target in all_of_them:
        targets.add(target)
    published = events_of(runs)
    half = len(published) // 2
    assert hand_over(targets, published[:half]) == hand_over(targets, published[half:]) == []
    check(wishes, published, [taken(target) for target in all_of_them])
    for target in all_of_them:
        stats = target.stats()
        assert (stats.offered, stats.dropped) == (stats.delivered, 0)


@for_all(wish_lists, runs, st.integers(0, 40), st.data(), examples=(40, 150))
def test_who_comes_and_who_goes_in_the_middle(
    wishes: list[Wish], runs: list[Run], moment: int, data: st.DataObject
) -> None:
    """A target has what was published while it was there; a route that was asked for before does not outlive it."""
    targets = Targets(lambda namespace: None)
    wishes = [wish for wish in wishes if wish.group is None]
    stays = [data.draw(st.sampled_from(["always", "comes", "goes"])) for _ in wishes]
    all_of_them = [target_of(wish) for wish in wishes]
    for target, stay in zip(all_of_them, stays, strict=True):
        if stay != "comes":
            targets.add(target)
    published = events_of(runs)

    def stream() -> Iterator[tuple[str, Event]]:
        yield from published[:moment]
        for target, stay in zip(all_of_them, stays, strict=True):
            {"always": lambda _: None, "comes": targets.add, "goes": targets.remove}[stay](target)
        yield from published[moment:]

    hand_over(targets, stream())
    for wish, stay, target in zip(wishes, stays, all_of_them, strict=True):
        seen = {"always": published, "comes": published[moment:], "goes": published[:moment]}[stay]
        check([wish], seen, [taken(target)])


@for_all(
    st.sampled_from(["drop_newest", "drop_oldest"]),
    st.integers(1, 5),
    st.lists(st.integers(1, 60), max_size=12),
    examples=(50, 200),
)
def test_what_does_not_fit_is_dropped_as_if_they_came_one_by_one(overflow: str, maxsize: int, sizes: list[int]) -> None:
    at_once, one_by_one = (target_of(Wish((">",)), maxsize, 100, overflow) for _ in range(2))
    events = [(Event(event_type="X", actor_id="a", data={"n": n}), size) for n, size in enumerate(sizes)]
    for target, batches in ((at_once, [events]), (one_by_one, [[one] for one in events])):
        targets = Targets(lambda namespace: None)
        targets.add(target)
        warned = []
        for batch in batches:
            deliveries = Deliveries()
            for event, size in batch:
                deliveries.add(targets.route("a"), partial(targets.route, "a"), [event], [size])
            dropping = deliveries.hand_over()
            warned += [target for target in dropping if target.drops.opens()]
            assert failed(dropping) == []
        assert warned == [target] * bool(target.stats().dropped), "a burst is told of once"
    assert at_once.stats().dropped_by_reason == one_by_one.stats().dropped_by_reason
    kept = numbers(taken(at_once))
    assert kept == numbers(taken(one_by_one))
    assert len(kept) + at_once.stats().dropped == len(events)
    assert kept == (sorted(kept) if overflow == "drop_newest" else list(range(len(events)))[len(events) - len(kept) :])


def test_who_fails_at_an_overflow_is_named_and_the_others_go_on() -> None:
    targets = Targets(lambda namespace: None)
    short, long = target_of(Wish((">",)), 2, overflow="fail"), target_of(Wish(("a",)))
    targets.add(short)
    targets.add(long)
    deliveries = Deliveries()
    for _, event in (published := events_of([("a", "Paid", "order-1", 4)])):
        deliveries.add(targets.route("a"), partial(targets.route, "a"), [event], [1])
    dropping = deliveries.hand_over()
    assert dropping == failed(dropping) == [short]
    assert (numbers(taken(short)), numbers(taken(long))) == ([0, 1], numbers(event for _, event in published))


def test_a_full_member_of_a_group_passes_events_to_its_neighbour() -> None:
    targets = Targets(lambda namespace: None)
    full, free = target_of(Wish(("a",), group="g"), maxsize=1), target_of(Wish((">",), group="g"))
    targets.add(full)
    targets.add(free)
    assert hand_over(targets, events_of([("a", "Paid", "order-1", 9)])) == []
    assert sorted(numbers(taken(full)) + numbers(taken(free))) == list(range(9))
    assert full.stats().dropped == free.stats().dropped == 0


def test_a_drop_of_a_group_is_told_of_who_had_its_turn() -> None:
    targets = Targets(lambda namespace: None)
    members = [target_of(Wish((pattern,), group="g"), maxsize=1) for pattern in ("a", ">")]
    for member in members:
        targets.add(member)
    (told,) = set(hand_over(targets, events_of([("a", "Paid", "order-1", 3)])))
    assert [member.stats().dropped for member in members] == [int(member is told) for member in members]


# -- in one process


@for_all(wish_lists, runs, st.booleans(), examples=(20, 60))
def test_a_bus_of_one_process(wishes: list[Wish], runs: list[Run], many: bool) -> None:
    with EventBus() as bus:
        subscriptions = [subscribe(bus, wish) for wish in wishes]
        published = events_of(runs)
        if many:
            for namespace, _, _, count in runs:
                bus.publish_many(namespace, [event for _, event in published[:count]])
                del published[:count]
        else:
            for namespace, event in published:
                bus.publish(namespace, event)
        check(wishes, events_of(runs), [drained(subscription) for subscription in subscriptions])


def subscribe(bus: EventBus, wish: Wish) -> Subscription:
    return bus.subscribe(*wish.patterns, filter=wish.filter, queue_group=wish.group)


def drained(subscription: Subscription) -> list[Event]:
    subscription.close()
    return list(subscription)


# -- off the wire


@pytest.fixture(params=["lean", pytest.param("public", marks=pytest.mark.slow)])
def receiver(
    request: pytest.FixtureRequest, make_bus: Callable[..., NATSEventBus], monkeypatch: pytest.MonkeyPatch
) -> NATSEventBus:
    monkeypatch.setenv("AETHER_SYNC_LEAN", str(int(request.param == "lean")))
    bus = make_bus()
    bus.start()
    return bus


#: What stands between the events: none of it is one, or it is the node's own, which has had it already.
RUBBISH = ("none", "no JSON", "another namespace", "the last elsewhere", "own")


@for_all(
    st.lists(alone | in_groups, min_size=1, max_size=5),
    runs,
    st.lists(st.sampled_from(RUBBISH), max_size=50),
    examples=(10, 30),
    suppress_health_check=PATIENT,
)
def test_a_burst_off_the_wire(
    receiver: NATSEventBus, server: NATSServer, prefix: str, wishes: list[Wish], runs: list[Run], rubbish: list[str]
) -> None:
    wishes = [wish for wish in wishes if wish.group is None] if "own" in rubbish else wishes
    published = events_of(runs)
    subscriptions = [subscribe(receiver, wish) for wish in wishes]
    with receiver.subscribe(">", "end") as witness, RawClient(server.port) as raw:
        frames, payload = [], b""
        for n, (namespace, event) in enumerate(published):
            for kind in rubbish[n : n + 1]:
                frames += [publication(prefix, "a", one) for one in spoilt(kind, receiver, payload)]
            payload = forged_of(namespace, event)
            frames.append(publication(prefix, namespace, payload))
        for end in ("first", "second"):  # of two batches: when it is there, the burst is in all queues
            raw.send(b"".join(frames) + publication(prefix, "end", forged_of("end", ending(end))))
            frames = []
            while witness.get(timeout=PATIENCE).actor_id != end:
                pass
    got = [[event for event in drained(one) if event.namespace != "end"] for one in subscriptions]
    check(wishes, published, got)
    assert receiver.metrics().reconnects == 0


def forged_of(namespace: str, event: Event) -> bytes:
    return forged(0, namespace, event_type=event.event_type, actor_id=event.actor_id, data=event.data)


def ending(name: str) -> Event:
    return Event(event_type="End", actor_id=name, data={"n": -1})


def publication(prefix: str, namespace: str, payload: bytes) -> bytes:
    return f"PUB {prefix}.events.{namespace} {len(payload)}\r\n".encode() + payload + b"\r\n"


def spoilt(kind: str, receiver: NATSEventBus, last: bytes) -> list[bytes]:
    """Payloads that are not for anyone under the namespace ``a``."""
    own = json.loads(forged(0, "a", node_id=receiver.node_id))
    return {
        "none": [],
        "no JSON": [b"", b"{"],
        "another namespace": [forged(0, "elsewhere")],
        "the last elsewhere": [] if b'"namespace_id":"a",' in last else [last],
        "own": [json.dumps(own, separators=(",", ":")).encode(), json.dumps(own).encode()],
    }[kind]


@for_all(runs, st.integers(1, 3), examples=(7, 20), suppress_health_check=PATIENT)
def test_the_same_bytes_again_are_an_event_again_and_a_copy_is_none(
    receiver: NATSEventBus, server: NATSServer, prefix: str, runs: list[Run], times: int
) -> None:
    """Overlapping patterns bring copies, also of what is published more than once: each gets it as often as that."""
    wishes = [Wish(patterns) for patterns in ((">",), ("a", "*"), ("a.*", "a.>", ">"), ("*.x", "tenant-*.>"))]
    published = [one for one in events_of(runs) for _ in range(times)]
    before = receiver.metrics().received
    subscriptions = [subscribe(receiver, wish) for wish in wishes]
    with receiver.subscribe("end") as witness, RawClient(server.port) as raw:
        payloads = {id(event): forged_of(namespace, event) for namespace, event in published}
        frames = [publication(prefix, namespace, payloads[id(event)]) for namespace, event in published]
        for end in ("first", "second"):
            raw.send(b"".join(frames) + publication(prefix, "end", forged_of("end", ending(end))))
            frames = []
            assert witness.get(timeout=PATIENCE).actor_id == end
    got = [[event for event in drained(one) if event.namespace != "end"] for one in subscriptions]
    check(wishes, published, got)
    eventually(lambda: receiver.metrics().received - before == len(published) + 2, "each event is counted once")


def test_a_copy_that_comes_in_another_turn_is_no_other_event() -> None:
    event = forged(1, "a")
    with FakeServer() as server, NATSEventBus(server.url) as bus:
        wide, narrow = bus.subscribe(">"), bus.subscribe("a")
        for times in (1, 2):
            for subscription, subject in ((wide, "aether.events.>"), (narrow, "aether.events.a")):
                sid = server.last.sid_of(subject)
                server.last.send(b"MSG aether.events.a %d %d\r\n%b\r\n" % (sid, len(event), event))
                assert number(subscription.get(timeout=PATIENCE)) == 1
            eventually(lambda times=times: bus.metrics().received == times, "each event is counted once")


def test_who_comes_later_to_a_pattern_that_is_subscribed_gets_what_comes_then(
    receiver: NATSEventBus, server: NATSServer, prefix: str
) -> None:
    with RawClient(server.port) as raw, receiver.subscribe("a") as first:
        raw.send(publication(prefix, "a", forged(0, "a")))
        assert number(first.get(timeout=PATIENCE)) == 0
        with receiver.subscribe("a") as second:
            raw.send(publication(prefix, "a", forged(1, "a")))
            assert [number(one.get(timeout=PATIENCE)) for one in (first, second)] == [1, 1]
        raw.send(publication(prefix, "a", forged(2, "a")))
        assert number(first.get(timeout=PATIENCE)) == 2
        assert list(second) == []


# -- one takes the place of another


def replaced(old: Subscription, news: list[Subscription], bus: EventBus, **options: Any) -> Callable[[], None]:
    """What a program does to replace a subscription without a gap: on another thread, here in the middle of ours."""

    def replace() -> None:
        news.append(bus.subscribe("a", **options))
        old.close()

    return lambda: run_threads(replace)  # type: ignore[return-value]


@pytest.mark.parametrize(
    "options", [{}, {"queue_group": "g"}, {"filter": SubscriptionFilter(event_types={"Happened"})}]
)
def test_an_event_that_is_published_while_a_subscription_takes_anothers_place(options: dict[str, Any]) -> None:
    news: list[Subscription] = []
    with EventBus() as bus:
        old = bus.subscribe("a", **options)
        with before(EventBus._publish, "self._deliver(", replaced(old, news, bus, **options)):
            bus.publish("a", make_event(1))
        bus.publish("a", make_event(2))
        assert (numbers(drained(old)), numbers(drained(news[0]))) == ([], [1, 2])


@pytest.mark.parametrize(
    "options", [{}, {"queue_group": "g"}, {"filter": SubscriptionFilter(event_types={"Happened"})}]
)
@pytest.mark.parametrize("is_shared", [False, True])
def test_what_is_in_the_loops_hands_while_a_subscription_takes_anothers_place(
    make_bus: Callable[..., NATSEventBus],
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    is_shared: bool,
) -> None:
    """It was decoded for the old one; whether it has come to the new one's interest before or not, somebody has it."""
    here, there = make_bus(), make_bus()
    there.start()
    old, news = here.subscribe("a", **options), []
    other = here.subscribe("a") if is_shared else None
    original = Deliveries.add
    in_hand, replaced_ = threading.Event(), threading.Event()

    def add(self: Deliveries, *args: Any) -> None:
        if not in_hand.is_set():
            in_hand.set()
            assert replaced_.wait(PATIENCE)
        original(self, *args)

    monkeypatch.setattr(Deliveries, "add", add)
    there.publish_many("a", [make_event(n) for n in range(50)])
    assert in_hand.wait(PATIENCE)
    news.append(here.subscribe("a", **options))
    old.close()
    replaced_.set()
    there.publish("a", make_event(50))
    got = numbers(news[0].get(timeout=PATIENCE) for _ in range(51))
    assert (numbers(drained(old)), got) == ([], [*range(51)])
    if other is not None:
        assert numbers(drained(other)) == [*range(51)]
    drained(news[0])


@pytest.mark.concurrent
@pytest.mark.parametrize("make", ["local", "across"])
def test_subscriptions_that_take_turns_miss_nothing(make: str, make_bus: Callable[..., NATSEventBus]) -> None:
    with EventBus() if make == "local" else make_bus() as bus:
        publisher = bus if make == "local" else make_bus()
        over = threading.Event()

        def publish() -> None:
            for n in range(0, 20_000, 20):
                publisher.publish_many("a", [make_event(n + k) for k in range(20)])
                if n % 400 == 0:
                    publisher.flush(PATIENCE)
            publisher.flush(PATIENCE)
            publisher.publish("a", make_event(-1))

        def take_turns() -> None:
            seen: set[int] = set()
            old = first
            while -1 not in seen:
                new = bus.subscribe("a", maxsize=10**6)
                old.close()
                seen.update(numbers(old))
                seen.update(numbers(new.get_batch(100, timeout=0.01)))
                old = new
            old.close()
            assert seen - {-1} == set(range(20_000))
            over.set()

        first = bus.subscribe("a", maxsize=10**6)
        run_threads(publish, take_turns)
        assert over.is_set()
