"""Many writers of one actor, and of several at once, on one server and on a cluster that loses its leader.

``AETHER_TEST_HAMMER=30 python -m pytest tests/store/test_hammer.py`` does it for 30 seconds each.
"""

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from aether_sync import (
    Event,
    JetStreamEventStore,
    NATSCluster,
    NATSServer,
    UnknownOutcomeError,
    VersionConflictError,
    retry_on_conflict,
)

from ..programs import increments
from ..programs.run import start
from ..support.common import PATIENCE, run_threads
from ..support.stores import leader_of

MakeStore = Callable[..., JetStreamEventStore]

SECONDS = float(os.environ.get("AETHER_TEST_HAMMER", "0"))

pytestmark = [pytest.mark.slow, pytest.mark.concurrent, pytest.mark.timeout(240 + 3 * SECONDS)]


@pytest.fixture
def cluster() -> Iterator[NATSCluster]:
    with NATSCluster(3) as cluster:
        yield cluster


def increments_add_up(
    store: JetStreamEventStore,
    url: str,
    prefix: str,
    replicas: int,
    seconds: float,
    break_something: Callable[[], None],
) -> Counter[str]:
    """Have 8 processes with 4 threads each increment one actor, break something twice meanwhile, and count."""
    store.start(timeout=PATIENCE)
    nodes = [start(increments.increment, url, prefix, replicas, seconds) for _ in range(8)]
    counts: Counter[str] = Counter()
    try:
        for _ in range(2):
            time.sleep(seconds / 4)
            break_something()
        for node in nodes:
            assert node.stdout is not None
            line = node.stdout.readline()
            assert line, node.communicate()[1][-2_000:]
            counts.update(json.loads(line))
        events = store.get_events(increments.ACTOR, timeout=PATIENCE)
        assert [one.version for one in events] == list(range(1, len(events) + 1)), "no gap, no double"
        assert len({one.id for one in events}) == len(events)
        assert len(events) == counts["successes"]
        for node in nodes:
            assert node.stdin is not None
            assert node.stdout is not None
            node.stdin.write(f"{len(events)}\n")
            node.stdin.flush()
            assert node.stdout.readline() == f"{len(events)}\n", "the node's cache ends there, too"
    finally:
        for node in nodes:
            with ExitStack() as stack:
                stack.callback(node.wait)
                stack.callback(node.kill)
                node.communicate(timeout=PATIENCE)
    assert all(node.returncode == 0 for node in nodes)
    print(f"{replicas} replicas, {seconds} s: {dict(counts)}")
    return counts


@pytest.mark.fault
def test_increments_by_many_processes_add_up(own_server: NATSServer, make_store: MakeStore, prefix: str) -> None:
    def kill() -> None:
        own_server.kill()
        own_server.start()

    store = make_store(own_server.url, f"{prefix}-store")
    counts = increments_add_up(store, own_server.url, prefix, 1, SECONDS or 6, kill)
    assert counts["successes"] > 100
    assert counts["conflicts"] > 100


@pytest.mark.fault
def test_increments_add_up_on_a_cluster_whose_leader_is_killed_twice(
    cluster: NATSCluster, make_store: MakeStore, prefix: str
) -> None:
    store = make_store(cluster.url, f"{prefix}-store", replicas=3)

    def kill_leader() -> None:
        leader = leader_of(store, cluster)
        leader.kill()
        time.sleep(1)
        leader.start()

    counts = increments_add_up(store, cluster.url, prefix, 3, SECONDS or 16, kill_leader)
    assert counts["successes"] > 20
    store.close()


# -- several actors at once

ACCOUNTS = ("account-1", "account-2", "account-3")


def moved(account: str, amount: int, version: int) -> Event:
    return Event(event_type="Moved", actor_id=account, version=version, data={"amount": amount})


def total(histories: dict[str, list[Event]]) -> int:
    return sum(one.data["amount"] for history in histories.values() for one in history if one.data is not None)


@pytest.mark.fault
@pytest.mark.parametrize("replicas", [1, 3])
def test_no_reader_sees_a_part_of_what_was_saved_together(
    request: pytest.FixtureRequest, make_store: MakeStore, replicas: int
) -> None:
    """Writers move amounts between three accounts, so that the sum is 0 after each save, and never within one."""
    servers = request.getfixturevalue("cluster" if replicas == 3 else "server")
    stores = [make_store(servers.url, replicas=replicas) for _ in range(3)]
    stores[0].start(timeout=PATIENCE)
    done = threading.Event()
    saved = []

    @retry_on_conflict(attempts=None, timeout=PATIENCE)
    def move(store: JetStreamEventStore, amount: int) -> None:
        versions = [store.get_latest_version(account, timeout=PATIENCE) + 1 for account in ACCOUNTS]
        amounts = (-2 * amount, amount, amount)
        store.save_events(map(moved, ACCOUNTS, amounts, versions), timeout=PATIENCE)

    def write(place: int) -> None:
        for amount in range(1, 60):
            move(stores[place], amount)
            saved.append(amount)

    def write_all() -> None:
        run_threads(*(lambda place=place: write(place) for place in range(3)))  # type: ignore[misc]
        done.set()

    sums = []

    def read(store: JetStreamEventStore) -> None:
        while not done.is_set():
            sums.append(total(store.read_together(*ACCOUNTS, timeout=PATIENCE)))

    seen = []

    def follow(store: JetStreamEventStore) -> None:
        balance = 0
        with store.follow(timeout=PATIENCE) as follower:
            while len(seen) < 3 * 59 * 3:
                stored = follower.get(timeout=PATIENCE * 2)
                assert stored.event.data is not None
                seen.append(stored.sequence)
                balance += stored.event.data["amount"]
                assert (balance == 0) is stored.ends_batch

    run_threads(write_all, *(lambda one=one: read(one) for one in stores), lambda: follow(stores[0]))  # type: ignore[misc]
    assert len(saved) == 3 * 59
    assert len(sums) > 10
    assert set(sums) == {0}
    assert seen == list(range(1, len(seen) + 1))
    for store in stores:
        store.close()


def test_saves_of_several_actors_that_race_are_all_or_nothing(make_store: MakeStore) -> None:
    stores = [make_store() for _ in range(4)]
    won = []

    def save(store: JetStreamEventStore, mine: int) -> None:
        for version in range(1, 40):
            events = [
                Event(event_type="Won", actor_id=account, version=version, data={"by": mine}) for account in ACCOUNTS
            ]
            try:
                store.save_events(events, timeout=PATIENCE)
            except VersionConflictError:
                continue
            except UnknownOutcomeError:
                pytest.fail("nothing is unknown here")
            won.append(version)

    run_threads(*(lambda store=store, mine=mine: save(store, mine) for mine, store in enumerate(stores)))  # type: ignore[misc]
    histories = stores[0].read_together(*ACCOUNTS)
    assert len(won) == len(histories["account-1"])
    winners = [[(one.version, one.data["by"]) for one in histories[each] if one.data] for each in ACCOUNTS]
    assert winners[0] == winners[1] == winners[2], "whoever won a version, won it for all three"
