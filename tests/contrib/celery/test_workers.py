"""Real workers of Celery: nothing is lost, nothing comes twice, nothing hangs, and no thread is left."""

import signal
from collections import Counter
from collections.abc import Callable

import pytest

from aether_sync import JetStreamEventStore, NATSEventBus
from aether_sync.contrib.celery._aether import _BY_SIGTERM

from ...support.common import UNIT, eventually, first_of
from .conftest import BOOT, Send, StartWorker, take

MakeBus = Callable[..., NATSEventBus]

POOLS = first_of(["prefork", "threads", "solo"])
REDIS = pytest.param("redis", marks=[pytest.mark.slow, pytest.mark.release])
BROKERS = pytest.mark.parametrize("broker", ["files", REDIS], indirect=True)


@BROKERS
@pytest.mark.parametrize("pool", POOLS)
def test_what_tasks_publish_arrives_once(start_worker: StartWorker, send: Send, make_bus: MakeBus, pool: str) -> None:
    bus = make_bus()
    with bus.subscribe("told") as events, bus.subscribe("goodbye") as goodbyes:
        worker = start_worker("-P", pool, "-c", "2", "--max-tasks-per-child", "3", ready=False)
        for number in range(8):
            send("publish", number, 50)
        got = take(events, 8 * 50)
        worker.stop()
        assert worker.process.returncode == 0, worker.log()
        assert not events.get_batch(1, timeout=0)
        processes = worker.ended() - 1  # but the main process
        ended = {one.actor_id for one in take(goodbyes, processes)}
    assert Counter((one.data["number"], one.data["n"]) for one in got if one.data) == Counter(
        (number, n) for number in range(8) for n in range(50)
    )
    assert not worker.threads_left()
    assert "Traceback" not in worker.log()
    if pool == "prefork":
        assert ended >= {one.actor_id for one in got}, "what a handler of the program's own publishes is sent"
        assert len({one.actor_id for one in got}) >= 3, "processes were replaced"


@pytest.mark.slow
@BROKERS
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_what_is_published_just_before_the_end_arrives(
    start_worker: StartWorker, send: Send, make_bus: MakeBus, pool: str
) -> None:
    with make_bus().subscribe("told", maxsize=100_000) as events:
        worker = start_worker("-P", pool, "-c", "1")
        send("publish", 0, 20_000)
        first = events.get(timeout=BOOT)
        worker.stop()
        assert worker.process.returncode == 0, worker.log()
        got = [first, *take(events, 19_999)]
    assert [one.data["n"] for one in got if one.data] == list(range(20_000))
    assert not worker.threads_left()


@pytest.mark.slow
@BROKERS
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_worker_ends_in_time_without_a_server(
    start_worker: StartWorker, send: Send, free_port: int, pool: str
) -> None:
    worker = start_worker("-P", pool, "-c", "1", url=f"nats://127.0.0.1:{free_port}", aether_close_timeout=1)
    done = send("publish", 0, 10)
    eventually(lambda: done.state == "SUCCESS", "that it does not wait for a server")
    assert worker.stop() < 8 * UNIT
    assert worker.process.returncode == 0, worker.log()
    assert "left something undone: CloseReport(unsent=1" in worker.log(), worker.log()


@pytest.mark.slow
@BROKERS
@pytest.mark.parametrize("faults", [["unreachable", "conflict"], ["", "conflict"]])
def test_a_task_that_is_retried_stores_once(
    start_worker: StartWorker, send: Send, make_bus: MakeBus, store: JetStreamEventStore, faults: list[str]
) -> None:
    with make_bus().subscribe("told") as events:
        worker = start_worker("-P", "prefork", "-c", "2", ready=False)
        for number in range(4):
            send("place", f"order-{number}", faults)
        placed = take(events, 4)
        worker.stop()
        assert not events.get_batch(1, timeout=0)
    check_orders(store, 4)
    assert sorted(one.actor_id for one in placed) == [f"order-{number}" for number in range(4)]
    assert "WorkerLost" not in worker.log()


@pytest.mark.slow
@BROKERS
@pytest.mark.parametrize("faults", first_of([["killed", "killed"], ["killed"], ["", "killed"]]))
def test_a_task_whose_process_is_killed_stores_once(
    start_worker: StartWorker, send: Send, make_bus: MakeBus, store: JetStreamEventStore, faults: list[str]
) -> None:
    with make_bus().subscribe("told") as events:
        worker = start_worker("-P", "prefork", "-c", "2", ready=False, worker_lost_wait=0.5)
        for number in range(3):
            send("place_late", f"order-{number}", faults)
        placed = take(events, 3)
        worker.stop()
    check_orders(store, 3)
    assert {one.actor_id for one in placed} == {f"order-{number}" for number in range(3)}
    assert "WorkerLost" in worker.log()


def check_orders(store: JetStreamEventStore, count: int) -> None:
    """Each order and its reservation is stored once."""
    for number in range(count):
        stored = store.get_events(f"order-{number}")
        assert [(one.event_type, (one.data or {}).get("n")) for one in stored] == [
            ("OrderPlaced", None), ("LineAdded", 0), ("LineAdded", 1)
        ]  # fmt: skip
    reserved = [one.data["order"] for one in store.get_events("stock") if one.data]
    assert sorted(reserved) == [f"order-{number}" for number in range(count)]


@pytest.mark.slow
@BROKERS
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_only_a_task_that_succeeds_publishes(
    start_worker: StartWorker, send: Send, make_bus: MakeBus, pool: str
) -> None:
    outcomes = ["fails", "rejected", "ignored", "retried", "succeeds later", "succeeds"]
    with make_bus().subscribe("told") as events:
        worker = start_worker("-P", pool, "-c", "1")
        results = {outcome: send("notify", outcome) for outcome in outcomes}
        wanted = {"succeeds": "SUCCESS", "succeeds later": "SUCCESS", "fails": "FAILURE", "retried": "FAILURE"}
        for outcome, state in wanted.items():
            eventually(lambda: results[outcome].state == state, outcome)  # noqa: B023
        worker.stop()
        told = [(one.actor_id, one.data) for one in [*take(events, 2), *events.get_batch(100, timeout=0)]]
    assert sorted(told) == [("succeeds", {"retries": 0}), ("succeeds later", {"retries": 1})]


@pytest.mark.slow
@BROKERS
def test_a_soft_time_limit_leaves_everything_usable(
    start_worker: StartWorker, send: Send, make_bus: MakeBus, store: JetStreamEventStore
) -> None:
    works = [(work, number) for work in ("iterate", "publish", "append", "append_once") for number in range(2)]
    with make_bus().subscribe("told") as events:
        worker = start_worker("-P", "prefork", "-c", "4", ready=False)
        for work, number in works:
            send("run_until_limited", work, number)
        got = take(events, len(works))
        worker.stop()
    assert sorted((one.data["work"], one.data["number"]) for one in got if one.data) == sorted(works)
    assert worker.process.returncode == 0, worker.log()
    assert not worker.threads_left()
    for number in range(2):
        stored = [one.id for one in store.get_events(f"flood-{number}")]
        assert len(set(stored)) == len(stored) > 0
        versions = [one.version for one in store.get_events(f"flood-{number}")]
        assert versions == list(range(1, len(versions) + 1))


@pytest.mark.slow
@BROKERS
def test_a_hard_time_limit_keeps_what_was_published(start_worker: StartWorker, send: Send, make_bus: MakeBus) -> None:
    with make_bus().subscribe("told") as events:
        worker = start_worker("-P", "prefork", "-c", "2", ready=False)
        results = [send("run_until_killed", number) for number in range(4)]
        assert len({one.data["number"] for one in take(events, 4) if one.data}) == 4
        eventually(lambda: all(one.state == "FAILURE" for one in results), "the limits")
        send("publish", 1, 1)  # by a process that has replaced one of these
        assert events.get(timeout=BOOT).event_type == "Counted"
        worker.stop()
    assert worker.process.returncode == 0, worker.log()


@pytest.mark.slow
@pytest.mark.parametrize("broker", ["redis"], indirect=True)  # with files, a worker of Celery does not end after that
def test_a_task_that_is_revoked_while_it_runs_has_published(
    start_worker: StartWorker, send: Send, make_bus: MakeBus
) -> None:
    with make_bus().subscribe("told", maxsize=100_000) as events:
        worker = start_worker("-P", "prefork", "-c", "1")
        result = send("publish_and_wait", 5_000)
        got = take(events, 1)
        send.revoke(result.id)  # type: ignore[attr-defined]
        send("publish", 1, 1)  # by the process that has replaced this one
        while got[-1].data and got[-1].data["number"] == 0:
            got.append(events.get(timeout=BOOT))
        worker.stop()
        assert not events.get_batch(1, timeout=0)
    numbers = [one.data["n"] for one in got[:-1] if one.data]
    assert numbers == list(range(len(numbers))), "in order, and none of those before is missing"
    assert got[0].actor_id != got[-1].actor_id
    assert not worker.threads_left()
    assert _BY_SIGTERM in worker.statuses()


@pytest.mark.slow
@BROKERS
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_cold_shutdown_ends_what_waits_for_events(
    start_worker: StartWorker, send: Send, make_bus: MakeBus, pool: str
) -> None:
    with make_bus().subscribe("told") as events:
        worker = start_worker("-P", pool, "-c", "1")
        send("run_for_ever", "iterate")
        assert events.get(timeout=BOOT).event_type == "Begun"
        assert worker.stop(signal.SIGQUIT) < 15 * UNIT
    assert "ResourceWarning" not in worker.log()


@pytest.mark.slow
def test_processes_that_are_spawned(start_worker: StartWorker, send: Send, make_bus: MakeBus) -> None:
    with make_bus().subscribe("told") as events:
        worker = start_worker("-P", "prefork", "-c", "2", worker_pool_start_method="spawn")
        for number in range(4):
            send("publish", number, 5)
        take(events, 20)
        worker.stop()
    assert worker.process.returncode == 0, worker.log()
    assert not worker.threads_left()


def test_a_worker_does_not_start_with_a_wrong_setting(start_worker: StartWorker) -> None:
    worker = start_worker(ready=False, aether_steam="orders")
    assert worker.process.wait(BOOT) != 0
    assert "there is no setting 'aether_steam': did you mean aether_stream?" in worker.log()
