"""What comes again through another server is known again, and nothing else; whoever publishes, however much."""

import random
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from aether_sync import NATSEventBus, NATSServer
from aether_sync._bus import recent_payloads as room
from aether_sync._bus.recent_payloads import RecentPayloads
from aether_sync._codec.envelope import EnvelopeWriter

from ..support.common import PATIENCE, eventually, make_event, numbers
from ..support.proxy import Proxy


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(room, "monotonic", clock)
    return clock


def node(name: str) -> Iterator[bytes]:
    """What a node publishes."""
    writer = EnvelopeWriter(name.rjust(32, "0"))
    return (writer.write("n", b"{}") for _ in count())


def take(source: Iterator[bytes], events: int) -> list[bytes]:
    return [next(source) for _ in range(events)]


@pytest.fixture
def payloads(clock: Clock) -> RecentPayloads:
    return RecentPayloads(EnvelopeWriter("own".rjust(32, "0")).own_mark)


def unnumbered(n: int) -> bytes:
    return b'{"node_id":"go-%b","namespace_id":"n","event":{"id":"%d"}}' % (b"x" * 33, n)


def test_on_one_connection_nothing_is_a_repeat(payloads: RecentPayloads) -> None:
    one = [*take(node("a"), 3), unnumbered(1)]
    assert [payloads.new(one) for _ in range(3)] == [one] * 3


def test_own_events_are_left_out_numbered_or_not(payloads: RecentPayloads) -> None:
    own = [*take(node("own"), 2), EnvelopeWriter("own".rjust(32, "0")).own_mark + b"nonsense"]
    (other,) = take(node("a"), 1)
    assert payloads.new(own) == []
    assert payloads.new([*own, other]) == [other]
    payloads.move()
    assert payloads.new(own) == []


@pytest.mark.parametrize("later", [0.0, 1.0, 5.0, 300.0])
@pytest.mark.parametrize("before", [0.0, 100.0])
def test_what_came_before_a_move_is_known_minutes_later(
    payloads: RecentPayloads, clock: Clock, later: float, before: float
) -> None:
    a, b = node("a"), node("b")
    came = [one for pair in zip(take(a, 50), take(b, 50), strict=True) for one in pair]
    for start in range(0, 100, 7):
        payloads.new(came[start : start + 7])
    clock.now += before
    for other in (take(node("c"), 1), take(node("d"), 1)):  # so that the old is forgotten as it was
        payloads.new(other)
    payloads.move()
    clock.now += later
    new = [*take(a, 2), *take(b, 2)]
    assert payloads.new([*came, *new]) == new
    assert payloads.new(came) == []
    assert payloads.new(take(a, 1) + new) != []


def test_moves_as_fast_as_a_link_can_flap_remember_no_more_than_one(payloads: RecentPayloads, clock: Clock) -> None:
    a = node("a")
    for _ in range(300):
        came = [*take(a, 100), *(unnumbered(random.getrandbits(60)) for _ in range(100))]
        assert payloads.new(came) == came
        clock.now += 0.5
        payloads.move()
        assert payloads.new(came) == []
        assert len(payloads._recent) <= 5 * 200
        assert sum(len(batch[2]) for batch in payloads._batches) <= 5 * 200
    assert len(payloads._old) == len(payloads._heard) == 1


def test_nodes_come_and_go_in_bounded_memory(
    payloads: RecentPayloads, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_NODES", 50)
    lasting = node("lasting")
    for n in range(500):
        payloads.new([*take(node(f"{n}"), 3), next(lasting)])
        clock.now += 3.0
        assert len(payloads._heard) <= 50
        assert len(payloads._latest) <= 8
        assert len(payloads._batches) <= 2
    payloads.move()
    assert payloads.new(take(node("lasting"), 300)) == []
    assert payloads.new(take(node("490"), 3)) == []
    assert len(payloads.new(take(node("1"), 3))) == 3  # forgotten: it comes twice, rather than not at all


def test_a_node_without_positions_is_known_by_its_bytes_for_a_moment(payloads: RecentPayloads, clock: Clock) -> None:
    came = [unnumbered(n) for n in range(5)]
    payloads.new(came)
    clock.now += 1.0
    payloads.move()
    assert payloads.new([*came, unnumbered(5)]) == [unnumbered(5)]
    clock.now += 3.0
    assert payloads.new(came) == came


@pytest.mark.slow
def test_threads_that_publish_at_once_may_be_out_of_order_around_a_move(payloads: RecentPayloads) -> None:
    for seed in range(200):
        chance = random.Random(seed)
        client = take(node(f"{seed}"), 200)
        for at in range(0, 200, 20):  # neighbours change places
            part = client[at : at + 20]
            chance.shuffle(part)
            client[at : at + 20] = part
        client = [one for one in client if chance.random() < 0.7]  # the others are of namespaces that nobody here has
        cut, again = sorted(chance.sample(range(len(client)), 2))[::-1]
        got = payloads.new(client[:cut])
        payloads.move()
        got += payloads.new(client[again:])
        assert got == client


def test_who_falls_silent_with_its_last_two_out_of_order_is_known(payloads: RecentPayloads, clock: Clock) -> None:
    a, b = take(node("a"), 2)
    payloads.new([b, a])
    clock.now += 60
    payloads.new(take(node("b"), 1))
    payloads.move()
    assert payloads.new([b, a]) == []


def test_a_batch_on_its_way_behind_a_later_event_is_no_repeat(payloads: RecentPayloads, clock: Clock) -> None:
    source = node("a")
    before, batch, later = take(source, 10), take(source, 10_000), take(source, 1)
    for run in (before, later, batch[:3_000]):  # the later one was published while the batch was made
        assert payloads.new(run) == run
        clock.now += 3.0
    payloads.new([unnumbered(1)])
    payloads.move()
    assert payloads.new(batch[2_900:]) == batch[3_000:]
    assert payloads.new(before) == []


def test_a_model_with_many_nodes_moves_and_lags(payloads: RecentPayloads, clock: Clock) -> None:
    """Servers that lag behind by any time bring what came before once more: each event comes once, in its order."""
    chance = random.Random(1)
    sources = [node(f"{n}") for n in range(20)]
    got: list[bytes] = []
    client: list[bytes] = []
    for _ in range(40):
        for _ in range(chance.randrange(1, 10)):
            batch = [next(chance.choice(sources)) for _ in range(chance.randrange(1, 8))]
            client += batch
            got += payloads.new(batch)
            clock.now += chance.choice([0.0, 0.1, 3.0])
        payloads.move()
        for start in range(max(0, len(client) - chance.randrange(1, 400)), len(client), 9):
            got += payloads.new(client[start : start + 9])
            clock.now += chance.choice([0.0, 0.5])
    assert got == client


# -- through a server

MakeBus = Callable[..., NATSEventBus]


@pytest.mark.fault
def test_an_event_that_is_published_again_after_a_reconnect_comes_again(make_bus: MakeBus, server: NATSServer) -> None:
    with Proxy(server.port) as link:
        here, there = make_bus(link.url), make_bus(server.url)
        with here.subscribe("beat") as events:
            beat = make_event(1)  # made once, published again and again
            for _ in range(5):
                there.publish("beat", beat)
            assert numbers(events.get(timeout=PATIENCE) for _ in range(5)) == [1] * 5
            link.drop()
            eventually(lambda: here.metrics().reconnects, "another connection")
            assert here.wait_connected(PATIENCE)
            for _ in range(10):
                there.publish("beat", beat)
            assert numbers(events.get(timeout=PATIENCE) for _ in range(10)) == [1] * 10
        here.close()


@pytest.mark.fault
def test_a_flapping_link_makes_nothing_grow(
    make_bus: MakeBus, server: NATSServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aether_sync._nats.servers._PAUSE", 0.05)
    with Proxy(server.port) as link:
        here, there = make_bus(link.url), make_bus(server.url)
        with here.subscribe("n") as events:
            for turn in range(1, 6):
                there.publish_many("n", [make_event(n) for n in range(200)])
                assert numbers(events.get(timeout=PATIENCE) for _ in range(200)) == [*range(200)]
                link.drop()
                eventually(lambda turn=turn: here.metrics().reconnects >= turn, "another connection")  # type: ignore[misc]
                assert here.wait_connected(PATIENCE)
        remembered = here._inbox._recent
        assert len(remembered._recent) <= 1_000
        assert len(remembered._latest) + len(remembered._heard) <= 2
        here.close()
