"""Stores on several nodes: what one stores moves the others' version caches; no trouble of a bus is a store's."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aether_sync import (
    ANY_VERSION,
    EVENT_STORED,
    Connection,
    Event,
    EventBus,
    EventStored,
    InMemoryEventStore,
    InvalidOptionError,
    JetStreamEventStore,
    NATSEventBus,
    NATSServer,
    Snapshot,
    StoreClosedError,
    UnknownOutcomeError,
    VersionConflictError,
)
from aether_sync.stores._jetstream.cache import VersionCache

from ..programs import forks
from ..programs.run import run
from ..support.common import PATIENCE, UNIT, eventually, first_of, run_threads
from ..support.inside import jetstream_of
from ..support.proxy import Proxy
from ..support.raw import RawClient
from ..support.stores import ask

MakeBus = Callable[..., NATSEventBus]
MakeStore = Callable[..., JetStreamEventStore]


def event(version: int = 0, actor_id: str = "a-1") -> Event:
    return Event(event_type="Happened", actor_id=actor_id, version=version, data={})


class Node:
    """A store and a bus on one connection, each knowing the other."""

    def __init__(self, url: str, prefix: str, namespace: str = "tenant-a") -> None:
        self.connection = Connection(url)
        self.store = JetStreamEventStore(self.connection, f"{prefix}-store", namespace=namespace)
        self.bus = NATSEventBus(self.connection, prefix=prefix, store=self.store, namespace=namespace)
        self.store.set_broadcaster(self.bus, namespace)
        self.bus.start()

    def close(self) -> None:
        self.bus.close()
        self.store.close()
        self.connection.close()


@pytest.fixture
def make_node(server: NATSServer, prefix: str) -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def make(namespace: str = "tenant-a") -> Node:
        nodes.append(Node(server.url, prefix, namespace))
        return nodes[-1]

    yield make
    for node in nodes:
        node.close()


# -- what is announced


def test_a_save_moves_the_caches_of_all_nodes_with_nobody_iterating(make_node: Callable[..., Node]) -> None:
    nodes = [make_node() for _ in range(3)]
    elsewhere = make_node("tenant-b")
    nodes[0].store.save_event(event(3))
    for node in nodes:
        eventually(lambda node=node: node.store.cached_version("a-1") == 3, "the cached version")  # type: ignore[misc]
    nodes[1].store.append("a-1", event(), event(), expected_version=3)
    for node in nodes:
        eventually(lambda node=node: node.store.cached_version("a-1") == 5, "the cached version")  # type: ignore[misc]
    assert elsewhere.store.cached_version("a-1") is None
    assert elsewhere.store.get_events("a-1") == []
    assert all(node.bus.metrics().active_subscriptions == 0 for node in nodes)


def test_the_application_gets_the_same_events(make_node: Callable[..., Node]) -> None:
    one, other = make_node(), make_node()
    with other.bus.subscribe_to_event_stored("tenant-a") as announced, one.bus.subscribe("tenant-a") as own:
        (stored,) = one.store.append("a-1", event(), expected_version=0)
        for events in (announced, own):
            got = events.get(timeout=PATIENCE)
            assert (got.event_type, got.actor_id, got.version, got.namespace) == (EVENT_STORED, "a-1", 1, "tenant-a")
            said = got.data_as(EventStored)
            assert (said.event_id, said.actor_id, said.version, said.sequence) == (stored.event.id, "a-1", 1, 1)
    one.store.append("a-1", event(), expected_version=1)
    eventually(lambda: other.store.cached_version("a-1") == 2, "also after the subscription was closed")


def test_what_is_announced_elsewhere_is_not_heeded(make_node: Callable[..., Node]) -> None:
    here, elsewhere = make_node(), make_node("tenant-b")
    with here.bus.subscribe(">") as everything:
        elsewhere.store.save_event(event(7))
        assert everything.get(timeout=PATIENCE).namespace == "tenant-b"
        elsewhere.bus.publish("tenant-a", EventStored.of(event(2, "b-1")))
        assert everything.get(timeout=PATIENCE).namespace == "tenant-a"
    assert here.store.cached_version("a-1") is None
    assert here.store.cached_version("b-1") == 2


def test_what_is_announced_is_read(make_node: Callable[..., Node]) -> None:
    one, other = make_node(), make_node()
    with other.bus.subscribe_to_event_stored("tenant-a") as announced:
        for version in range(50):
            one.store.append("a-1", event(), expected_version=version)
            said = announced.get(timeout=PATIENCE)
            assert other.store.get_events("a-1")[-1].version == said.version == version + 1


def test_nothing_is_announced_that_is_not_stored(make_node: Callable[..., Node]) -> None:
    one, other = make_node(), make_node()
    one.store.save_event(event(5))
    eventually(lambda: other.store.cached_version("a-1") == 5, "the first")
    with other.bus.subscribe_to_event_stored("tenant-a") as announced:
        with pytest.raises(VersionConflictError):
            one.store.save_event(event(5))
        with pytest.raises(VersionConflictError):
            one.store.save_events([event(1, "b-1"), event(4)])
        one.store.save_event(event(6))
        assert announced.get(timeout=PATIENCE).version == 6
        assert announced.get_batch(9, timeout=0) == []
    one.store.set_broadcaster(None)
    with other.bus.subscribe_to_event_stored("tenant-a") as announced:
        one.store.save_event(event(7))
        assert announced.get_batch(9, timeout=0.1) == []


# -- what a node in Go announces


@pytest.mark.parametrize("number", ["7", "7.0", "7e0", "0.7E1", "70e-1"])
@pytest.mark.parametrize("sequence", ["", ',"sequence":4'])
def test_a_version_as_any_json_number(
    make_node: Callable[..., Node], server: NATSServer, prefix: str, number: str, sequence: str
) -> None:
    node = make_node()
    body = (
        f'{{"node_id":"go-1","namespace_id":"tenant-a","event":{{"id":"e-1","eventType":"EventStored","actorId":"a-1",'
        f'"version":7,"data":{{"eventId":"x","actorId":"a-1","version":{number},"timestamp":1.7e9{sequence}}},'
        f'"timestamp":"2026-01-01T00:00:00Z"}}}}'
    ).encode()
    with node.bus.subscribe_to_event_stored("tenant-a") as announced, RawClient(server.port) as go:
        go.publish(f"{prefix}.events.tenant-a", body)
        said = announced.get(timeout=PATIENCE).data_as(EventStored)
    assert (said.version, said.timestamp) == (7, 1_700_000_000)
    assert type(said.version) is int
    eventually(lambda: node.store.cached_version("a-1") == 7, "the cached version")
    assert node.store.get_latest_version("a-1") == 0, "the leader knows better"
    assert node.store.cached_version("a-1") is None
    assert node.store.append("a-1", event(), expected_version=0)[0].event.version == 1


@pytest.mark.parametrize(
    "data",
    [
        "null",
        "{}",
        '{"version":"7"}',
        '{"version":-7}',
        '{"version":7.5}',
        '{"version":1e300}',
        '{"actorId":5,"version":7}',
    ],
)
def test_an_announcement_that_is_none_does_no_harm(
    make_node: Callable[..., Node], server: NATSServer, prefix: str, data: str
) -> None:
    node = make_node()
    body = (
        f'{{"node_id":"go-1","namespace_id":"tenant-a","event":{{"id":"e","eventType":"EventStored","actorId":"a-1",'
        f'"version":0,"data":{data},"timestamp":"2026-01-01T00:00:00Z"}}}}'
    ).encode()
    with RawClient(server.port) as go:
        go.publish(f"{prefix}.events.tenant-a", body)
        go.publish(f"{prefix}.events.tenant-a", body.replace(b'"version":0,', b'"version":2,').replace(b"a-1", b"b-1"))
    eventually(lambda: node.bus.metrics().received == 2, "both")
    assert node.store.cached_version("a-1") is None


# -- a bus in trouble


def saves_in_time(store: JetStreamEventStore, first: int = 0) -> float:
    """How long twenty saves take."""
    begun = time.monotonic()
    for version in range(first, first + 20):
        store.append("a-1", event(), expected_version=version)
    return time.monotonic() - begun


def test_a_bus_that_is_away_delays_no_save(make_store: MakeStore, free_port: int) -> None:
    store = make_store()
    bus = NATSEventBus(f"nats://127.0.0.1:{free_port}", connect_timeout=PATIENCE, publish_timeout=PATIENCE)
    store.set_broadcaster(bus, "n")
    assert saves_in_time(store) < 5 * UNIT
    bus.close(timeout=0)
    assert saves_in_time(store, 20) < 5 * UNIT
    assert len(store.get_events("a-1")) == 40
    assert bus.metrics().publish_errors == 20


@pytest.mark.fault
def test_a_full_bus_delays_no_save(make_store: MakeStore, own_server: NATSServer) -> None:
    store = make_store()
    with NATSEventBus(own_server.url, outbox_events=3, publish_timeout=PATIENCE) as bus:
        store.set_broadcaster(bus, "n")
        own_server.pause()
        for n in range(200):  # until the sockets are full, too
            bus.try_publish("n", event(n))
        assert saves_in_time(store) < 5 * UNIT
        assert bus.metrics().publish_errors > 0
        own_server.resume()


def test_a_closed_bus_fails_no_save(make_store: MakeStore) -> None:
    store, bus = make_store(), EventBus()
    store.set_broadcaster(bus, "n")
    bus.close()
    store.save_event(event(1))
    assert len(store.get_events("a-1")) == 1


def test_a_closed_store_fails_no_bus(make_node: Callable[..., Node]) -> None:
    one, other = make_node(), make_node()
    other.store.close()
    with other.bus.subscribe("tenant-a") as events:
        one.store.save_event(event(1))
        assert events.get(timeout=PATIENCE).version == 1


def test_a_store_in_memory_may_be_told_too(server: NATSServer, prefix: str) -> None:
    store = InMemoryEventStore()
    with NATSEventBus(server.url, prefix=prefix, store=store, namespace="n") as bus, bus.subscribe("n") as events:
        with NATSEventBus(server.url, prefix=prefix) as other:
            other.publish("n", EventStored.of(event(3)))
            events.get(timeout=PATIENCE)
        assert store.cached_version("a-1") is None


# -- the cache


def test_a_version_without_a_sequence_is_a_hint(make_store: MakeStore) -> None:
    one, other = make_store(), make_store()
    one.save_event(event(1))
    assert [each.version for each in other.get_events("a-1")] == [1]
    one.save_event(event(2))
    other.update_version_cache("a-1", 2)
    assert other.cached_version("a-1") == 2
    other.update_version_cache("a-1", 1)
    assert other.cached_version("a-1") == 2
    assert other.append("a-1", event(), expected_version=2)[0].sequence == 3


def test_a_stream_that_was_restored_moves_the_cache_down(make_store: MakeStore, prefix: str) -> None:
    store = make_store()
    store.save_events([event(version) for version in range(1, 11)])
    store.save_event(event(1, "b-1"))
    assert "error" not in ask(store, f"STREAM.DELETE.{prefix}")
    restored = make_store()
    restored.save_events([event(version) for version in range(1, 4)])
    assert store.cached_version("a-1") == 10
    with pytest.raises(VersionConflictError) as conflict:
        store.append("a-1", event(), expected_version=10)
    assert conflict.value.current_version == store.cached_version("a-1") == 3
    assert store.get_latest_version("b-1") == 0
    assert store.cached_version("b-1") is None
    assert [one.version for one in store.get_events("a-1")] == [1, 2, 3]
    assert store.append("a-1", event(), expected_version=3)[0].sequence == 4


def test_an_older_snapshot_replaces_none_that_was_saved_meanwhile(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = make_store(), make_store()
    one.save_event(event(1))
    find = one._snapshots._last

    def find_late(*about: Any) -> Any:
        monkeypatch.setattr(one._snapshots, "_last", find)
        other.save_event(event(2))
        assert other.save_snapshot(Snapshot(actor_id="a-1", version=2, state={}))
        return find(*about)

    monkeypatch.setattr(one._snapshots, "_last", find_late)
    assert not one.save_snapshot(Snapshot(actor_id="a-1", version=1, state={}))
    latest = one.get_latest_snapshot("a-1")
    assert latest is not None
    assert latest.version == 2


def test_what_is_kept_is_bounded() -> None:
    cache = VersionCache(100)
    for n in range(200):
        cache.learn(f"a-{n}", 1, n + 1)
        cache.learn("hot", n + 1, 10**6 + n)
    assert len(cache._known) == 100
    assert cache.get("a-0") is None
    hot = cache.get("hot")
    assert hot is not None
    assert hot.version == 200


def test_a_store_remembers_as_many_actors_as_it_is_told(make_store: MakeStore) -> None:
    store = make_store(cached_actors=2)
    actors = [f"a-{n}" for n in range(5)]
    store.save_events([event(1, actor_id) for actor_id in actors], timeout=PATIENCE)
    assert [store.cached_version(actor_id) for actor_id in actors] == [None, None, None, 1, 1]
    stored = store.save_events([event(2, actor_id) for actor_id in actors], timeout=PATIENCE)
    assert [one.event.version for one in stored] == [2] * 5, "the leader was asked for the others"
    with pytest.raises(InvalidOptionError):
        make_store(cached_actors=0)


def test_a_leaders_answer_does_not_undo_what_came_meanwhile() -> None:
    cache = VersionCache(10)
    cache.learn("a", 3, 30)
    before = cache.get("a")
    cache.learn("a", 5, 50)  # while the leader is asked
    assert cache.replace("a", 4, 40, before).version == 5
    before = cache.get("a")
    assert cache.replace("a", 2, 20, before).version == 2
    cache.announce("a", 9)
    assert cache.get("a").is_doubtful  # type: ignore[union-attr]
    assert not cache.replace("a", 4, 40, cache.get("a")).is_doubtful, "the announced version is waited for no longer"


@pytest.mark.concurrent
@pytest.mark.parametrize("saves", first_of([8, 20]))
def test_racing_nodes_end_with_the_same_version(make_node: Callable[..., Node], saves: int) -> None:
    nodes = [make_node() for _ in range(3)]
    counts = [0] * 6

    def work(place: int) -> None:
        store = nodes[place % 3].store
        while counts[place] < saves:
            try:
                loaded = store.load("a-1", timeout=PATIENCE)
                store.append("a-1", event(), expected_version=loaded.version, timeout=PATIENCE)
            except VersionConflictError:
                continue
            counts[place] += 1

    run_threads(*(lambda place=place: work(place) for place in range(6)))  # type: ignore[misc]
    for node in nodes:
        eventually(lambda node=node: node.store.cached_version("a-1") == 6 * saves, "the cached version")  # type: ignore[misc]
        assert [one.version for one in node.store.get_events("a-1")] == list(range(1, 6 * saves + 1))


# -- connections and forks


def test_a_shared_connection_stays_open(server: NATSServer, prefix: str) -> None:
    with Connection(server.url) as connection:
        with JetStreamEventStore(connection, prefix) as store:
            store.save_event(event(1))
        assert not connection.closed
        with JetStreamEventStore(connection, prefix) as store:
            assert store.get_latest_version("a-1") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork() here")
@pytest.mark.slow
def test_a_store_in_a_forked_child(server: NATSServer, prefix: str) -> None:
    run(forks.a_store_on_a_server, server.url, prefix)


def test_nothing_happens_before_the_first_use(free_port: int) -> None:
    with JetStreamEventStore(f"nats://127.0.0.1:{free_port}") as store:
        assert store.cached_version("a") is None
        assert "new" in repr(store)


# -- announcements that are not true of this store


def test_announcements_of_another_store_cost_no_event(make_store: MakeStore) -> None:
    store, other = make_store(), make_store()
    store.save_events([event(version) for version in (1, 2, 3)])
    for version, sequence in ((1, 3), (2, 999), (1, 10**9), (2**63 - 1, 7), (2**63 - 1, None)):
        fresh = make_store()
        for each in (store, fresh):
            each.update_version_cache("a-1", version, sequence)
            with pytest.raises(VersionConflictError):
                each.append("a-1", event(), expected_version=1)
            assert [one.version for one in each.get_events("a-1", 3)] == [3]
            assert each.load("a-1").version == 3
            assert each.get_latest_version("a-1") == 3
    assert other.append("a-1", event(), expected_version=ANY_VERSION)[0].event.version == 4
    with pytest.raises(InvalidOptionError, match="too long"):
        store.update_version_cache("x" * 10_000, 1)


def test_reads_of_a_stream_made_anew_miss_nothing(make_store: MakeStore, prefix: str) -> None:
    store = make_store()
    store.save_events([event(version) for version in range(1, 11)])
    store.save_snapshot(Snapshot(actor_id="a-1", version=10, state={}))
    ask(store, f"STREAM.DELETE.{prefix}")
    anew = make_store()
    anew.save_events([event(version, f"b-{version}") for version in range(1, 30)])
    for version in range(1, 13):
        anew.save_event(event(version))
    for first in range(1, 13):
        assert [one.version for one in store.get_events("a-1", first)] == list(range(first, 13))
    assert store.load("a-1").snapshot is None


def test_closing_releases_who_waits_without_end(make_store: MakeStore, server: NATSServer, prefix: str) -> None:
    with Proxy(server.port) as proxy, Connection(proxy.url, ping_interval=60) as connection:
        store = JetStreamEventStore(connection, prefix)
        store.save_event(event(1))
        proxy.mute()
        ended: list[str] = []

        def wait(call: Callable[[], object]) -> None:
            try:
                call()
            except (StoreClosedError, UnknownOutcomeError) as error:
                ended.append(type(error).__name__)

        calls = [
            lambda: store.get_events("a-1", timeout=None),
            lambda: store.get_latest_version("a-1", timeout=None),
            lambda: store.actors(timeout=None),
            lambda: store.save_event(event(2), timeout=None),
        ]
        threads = [threading.Thread(target=wait, args=(call,), daemon=True) for call in calls]
        for thread in threads:
            thread.start()
        eventually(lambda: len(list(jetstream_of(store)._calls)) >= 4, "calls that wait")
        store.close()
        for thread in threads:
            thread.join(PATIENCE)
        assert sorted(ended) == ["StoreClosedError"] * 3 + ["UnknownOutcomeError"]
        assert not connection.closed
