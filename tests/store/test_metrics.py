"""What a store and its runners count with a real server: caches, retries, lag, redeliveries, dead letters."""

import pickle
import threading
from collections.abc import Callable

import pytest

from aether_sync import (
    ANY_VERSION,
    Delivery,
    JetStreamEventStore,
    NATSServer,
    RunnerMetrics,
    UnknownOutcomeError,
    VersionConflictError,
)
from aether_sync.stores._jetstream.record_flow import _WINDOW

from ..support.common import PATIENCE, UNIT, eventually, run_threads
from ..support.proxy import Proxy
from ..support.stores import ACK_WAIT, event, fill, save, take

MakeStore = Callable[..., JetStreamEventStore]


@pytest.fixture
def go_on() -> threading.Event:
    return threading.Event()


# -- the store


def test_which_versions_were_known(make_store: MakeStore) -> None:
    store, other = make_store(), make_store()
    fill(store, "a", 1)  # a new actor: nobody is asked
    store.append("a", event("a"), expected_version=1)
    assert (store.metrics().version_hits, store.metrics().version_misses) == (2, 0)
    other.append("a", event("a"), expected_version=2)
    assert (other.metrics().version_hits, other.metrics().version_misses) == (0, 1)
    other.append("a", event("a"), expected_version=ANY_VERSION)
    make_store().append("a", event("a"), expected_version=ANY_VERSION)
    assert (other.metrics().version_hits, other.metrics().version_misses) == (1, 1)
    third = make_store()
    third.append("a", event("a"), expected_version=ANY_VERSION)
    assert (third.metrics().version_hits, third.metrics().version_misses) == (0, 1)


def test_which_events_were_kept(make_store: MakeStore) -> None:
    store, other = make_store(), make_store()
    fill(store, "a", 1, 2, 3)
    kept = store.metrics().kept_bytes
    assert 300 < kept < 5_000
    assert store.load("a").version == 3
    assert (store.metrics().kept_hits, store.metrics().kept_misses) == (1, 0)
    fill(other, "a", 4)
    assert store.load("a").version == 4
    assert store.get_latest_event("a") is not None
    assert (store.metrics().kept_hits, store.metrics().kept_misses) == (2, 1)
    assert store.metrics().kept_bytes > kept
    bare = make_store(cache_bytes=0)
    bare.load("a")
    bare.load("a")
    bare.load("nobody")
    assert (bare.metrics().kept_hits, bare.metrics().kept_misses, bare.metrics().kept_bytes) == (0, 2, 0)


def test_writers_that_meet_try_again(make_store: MakeStore) -> None:
    stores = [make_store() for _ in range(4)]

    def work(store: JetStreamEventStore) -> Callable[[], None]:
        def append() -> None:
            for _ in range(10):
                store.append("a", event("a"), expected_version=ANY_VERSION, timeout=PATIENCE)

        return append

    run_threads(*map(work, stores))
    every = [store.metrics() for store in stores]
    assert sum(one.events_written for one in every) == 40
    assert sum(one.retries for one in every) > 0
    assert all((one.conflicts, one.calls["append"].errors) == (0, 0) for one in every)


def test_a_lost_answer_is_an_unknown_outcome(make_store: MakeStore, own_server: NATSServer) -> None:
    with Proxy(own_server.port) as proxy:
        store = make_store(proxy.url)
        fill(store, "a", 1)
        proxy.stall()
        with pytest.raises(UnknownOutcomeError):
            store.append("a", event("a"), expected_version=1, timeout=0.4 * UNIT)
        metrics = store.metrics()
        assert metrics.calls["append"].errors == 1
        assert metrics.unknown_outcomes == 1
        assert metrics.calls["append"].seconds.sum >= 0.3 * UNIT
        proxy.restore()


def test_the_lag_of_a_follower_that_nobody_reads(make_store: MakeStore) -> None:
    store, other = make_store(), make_store()
    save(other, 100)
    with store.follow(after=40) as follower:
        (one,) = store.metrics().followers
        assert (one.lag, one.sequence) == (60, 40)
        take(follower, 1)
        (one,) = store.metrics().followers
        assert (one.lag, one.sequence) == (59, 41)
        save(other, 5_000, actors=1, actor_id="b", event_type="Other")
        eventually(lambda: store.metrics().followers[0].lag >= _WINDOW - 10)  # the server sends no more
        fill(store, "c", 1)
        assert store.metrics().followers[0].lag == 5_060


def test_a_follower_that_nobody_can_reach_is_not_connected(make_store: MakeStore, own_server: NATSServer) -> None:
    store = make_store(own_server.url)
    save(store, 3)
    with store.follow() as follower:
        take(follower, 3)
        own_server.stop()
        eventually(lambda: not store.metrics().followers[0].is_connected)
        assert store.metrics().followers[0].lag == 0
        own_server.start()
        save(store, 1, actor_id="b")
        take(follower, 1)
        assert store.metrics().followers[0].is_connected


# -- runners


def test_a_runner_counts_what_its_handler_does(store: JetStreamEventStore, go_on: threading.Event) -> None:
    save(store, 30)

    def handle(delivery: Delivery) -> None:
        assert go_on.wait(PATIENCE)

    with store.consumer("c").run(handle, threads=3, prefetch=8) as runner:
        eventually(lambda: runner.metrics().busy == 3)
        metrics = runner.metrics()
        assert (metrics.consumer, metrics.of_dead_letters, metrics.threads) == ("c", False, 3)
        assert 3 <= metrics.in_hand <= 8
        eventually(lambda: runner.metrics().in_hand + runner.metrics().lag == 30)
        assert 0 < metrics.oldest_seconds < PATIENCE
        assert metrics.handled == metrics.failed == metrics.seconds.count == 0
        go_on.set()
        eventually(lambda: runner.metrics().handled == 30)
        eventually(lambda: (runner.metrics().in_hand, runner.metrics().lag, runner.metrics().busy) == (0, 0, 0))
    metrics = runner.metrics()
    assert (metrics.handled, metrics.failed, metrics.redelivered, metrics.dead_letters) == (30, 0, 0, 0)
    assert (metrics.oldest_seconds, metrics.in_hand) == (0.0, 0)
    assert metrics.seconds.count == 30
    assert pickle.loads(pickle.dumps(metrics)) == metrics
    assert isinstance(metrics, RunnerMetrics)


def test_failures_and_dead_letters(store: JetStreamEventStore) -> None:
    save(store, 4, actors=4)

    def handle(delivery: Delivery) -> None:
        if delivery.sequence == 1:
            raise ValueError("it always fails")
        if delivery.sequence == 2:
            delivery.reject("it is not for us")

    consumer = store.consumer("c", max_deliver=3)
    with consumer.run(handle, retry_delay=0.001) as runner:
        eventually(lambda: runner.metrics().dead_letters == 2)
        eventually(lambda: runner.metrics().in_hand == 0)
        metrics = runner.metrics()
        assert (metrics.handled, metrics.failed) == (3, 3)
        assert metrics.seconds.count == 6
        assert len(consumer.dead_letters()) == 2
    with consumer.run(lambda _: None, dead_letters=True) as again:
        eventually(lambda: again.metrics().handled == 2)
        assert again.metrics().of_dead_letters
        assert again.metrics().dead_letters == 0


def test_what_comes_again_is_counted(store: JetStreamEventStore) -> None:
    save(store, 10, actors=10)
    consumer = store.consumer("c", ack_wait=ACK_WAIT)
    with consumer.iterate() as events:
        for _ in range(10):
            events.get(timeout=PATIENCE)
    with consumer.run(lambda _: None) as runner:
        eventually(lambda: runner.metrics().handled == 10)
        assert runner.metrics().redelivered == 10


def test_what_is_given_back_after_its_last_delivery_is_a_dead_letter(
    store: JetStreamEventStore, go_on: threading.Event
) -> None:
    save(store, 5, actors=1)

    def handle(delivery: Delivery) -> None:
        assert go_on.wait(PATIENCE)

    runner = store.consumer("c", max_deliver=1).run(handle, threads=1)
    eventually(lambda: runner.metrics().busy == 1)
    eventually(lambda: runner.metrics().in_hand > 1)
    closing = threading.Thread(target=runner.close, args=(PATIENCE,))
    closing.start()
    eventually(lambda: runner.closed)
    go_on.set()
    closing.join()
    metrics = runner.metrics()
    assert (metrics.handled, metrics.in_hand, metrics.lag) == (1, 0, 0)
    assert metrics.dead_letters > 0


def test_a_handler_may_ask_for_the_metrics(store: JetStreamEventStore) -> None:
    save(store, 3)
    seen: list[RunnerMetrics] = []
    with store.consumer("c").run(lambda _: seen.append(runner.metrics()), threads=1) as runner:
        eventually(lambda: len(seen) == 3)
    assert [one.handled for one in seen] == [0, 1, 2]
    assert all(one.busy == 1 for one in seen)


def test_conflicts_that_the_server_finds(make_store: MakeStore) -> None:
    store, other = make_store(), make_store()
    fill(store, "a", 1)
    fill(other, "a", 2)
    with pytest.raises(VersionConflictError):
        store.append("a", event("a"), expected_version=1)
    metrics = store.metrics()
    assert (metrics.conflicts, metrics.retries) == (1, 1)  # it looked again, and the actor had moved on
    assert metrics.version_misses == 1
