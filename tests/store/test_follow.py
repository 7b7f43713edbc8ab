"""Following a stream: whatever happens to servers, links and consumers, every sequence once, and in order."""

import gc
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest

from aether_sync import (
    ANY_VERSION,
    DeadlineExceededError,
    Event,
    JetStreamEventStore,
    MalformedRecordError,
    NATSCluster,
    NATSEventBus,
    NATSServer,
    PermissionDeniedError,
    Snapshot,
    StoreClosedError,
    StoredEvent,
    StoreUnavailableError,
    StreamRegressionError,
    VersionConflictError,
)
from aether_sync._codec.encoding import encode_event
from aether_sync._runtime.deadline import Deadline
from aether_sync.stores._jetstream.follower import JetStreamFollower
from aether_sync.stores._jetstream.pull import PullBuffer
from aether_sync.stores._jetstream.record_flow import _WINDOW

from ..faults.test_interrupts import INTERRUPTS, hammer
from ..support.common import PATIENCE, UNIT, eventually, run_threads
from ..support.inside import channel_of, engine_of, on_write
from ..support.proxy import Proxy
from ..support.raw import RawClient
from ..support.steps import before

MakeStore = Callable[..., JetStreamEventStore]


def event(actor_id: str = "a-1", version: int = 0, **data: object) -> Event:
    return Event(event_type="Happened", actor_id=actor_id, version=version, data=data)


def fill(store: JetStreamEventStore, count: int, actor_id: str = "a-1") -> None:
    """Store so many events, in batches."""
    first = store.get_latest_version(actor_id, timeout=PATIENCE) + 1
    for start in range(first, first + count, 500):
        end = min(start + 500, first + count)
        store.save_events([event(actor_id, version) for version in range(start, end)], timeout=PATIENCE)


def sequences(follower: JetStreamFollower, count: int) -> list[int]:
    return [follower.get(timeout=PATIENCE).sequence for _ in range(count)]


class Writer:
    """Stores events one by one, in a thread, until it is stopped."""

    def __init__(self, store: JetStreamEventStore) -> None:
        self._store = store
        self._stopped = threading.Event()
        self.written = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._store.append("w-1", event("w-1"), expected_version=ANY_VERSION, timeout=PATIENCE * 2)
            self.written += 1

    def stop(self) -> int:
        """Stop, and return the sequence of the last event."""
        self._stopped.set()
        self._thread.join(PATIENCE * 3)
        assert not self._thread.is_alive()
        return self._store.last_sequence(timeout=PATIENCE)


@pytest.fixture
def proxy(server: NATSServer) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


def consumers(store: JetStreamEventStore) -> int:
    stream = store._names.stream
    answer = store._jetstream.request(f"STREAM.INFO.{stream}", {}, Deadline(PATIENCE))
    return int(answer["state"]["consumer_count"])


def test_it_asks_again_when_a_question_has_ended(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aether_sync.stores._jetstream.pull.EXPIRES", 0.2)
    monkeypatch.setattr("aether_sync.stores._jetstream.pull._HEARTBEAT", 0.05)
    store = make_store()
    store.start()
    with store.follow() as follower:
        questions: list[bytes] = []
        on_write(store, monkeypatch, questions.append)

        def late() -> None:
            eventually(lambda: len(questions) == 5, "questions, though nothing is stored")
            fill(store, 1)

        run_threads(lambda: sequences(follower, 1), late)


# -- faults


@pytest.mark.fault
@pytest.mark.parametrize("how", ["restart", "kill"])
def test_through_two_server_restarts_every_sequence_comes_once(
    own_server: NATSServer, make_store: MakeStore, how: str
) -> None:
    store = make_store(own_server.url)
    fill(store, 300)
    writer = Writer(make_store(own_server.url))
    got: list[int] = []
    with store.follow() as follower:
        for stop in (100, 400):
            got += sequences(follower, stop - len(got))
            if how == "restart":
                own_server.restart()
            else:
                own_server.kill()
                own_server.start()
            seen = writer.written
            eventually(lambda seen=seen: writer.written > seen + 50, "events after the restart")  # type: ignore[misc]
        last = writer.stop()
        got += sequences(follower, last - len(got))
        eventually(lambda: follower.is_caught_up)
    assert got == list(range(1, last + 1))


@pytest.mark.fault
def test_through_the_loss_of_a_leader_every_sequence_comes_once(make_store: MakeStore) -> None:
    with NATSCluster(3) as cluster:
        store, writing = make_store(cluster.url, replicas=3), make_store(cluster.url, replicas=3)
        fill(store, 100)
        writer = Writer(writing)
        got: list[int] = []
        with store.follow() as follower:
            for _ in range(2):
                got += sequences(follower, 50)
                stream = store._names.stream
                info = store._jetstream.request(f"STREAM.INFO.{stream}", {}, Deadline(PATIENCE))
                (leader,) = (one for one in cluster.servers if one.name == info["cluster"]["leader"])
                leader.kill()
                seen = writer.written
                eventually(lambda seen=seen: writer.written > seen + 20, "another leader")  # type: ignore[misc]
                leader.start()
                cluster.wait_ready()
            last = writer.stop()
            got += sequences(follower, last - len(got))
        assert got == list(range(1, last + 1))
        store.close()
        writing.close()


@pytest.mark.fault
def test_through_broken_links_every_sequence_comes_once(make_store: MakeStore, proxy: Proxy) -> None:
    direct, store = make_store(), make_store(proxy.url, ping_interval=60)
    writer = Writer(direct)
    got: list[int] = []
    with store.follow() as follower:
        for _ in range(15):
            got += sequences(follower, 30)
            proxy.drop()
        last = writer.stop()
        got += sequences(follower, last - len(got))
    assert got == list(range(1, last + 1))


@pytest.mark.fault
def test_a_link_that_goes_silent_is_noticed(make_store: MakeStore, proxy: Proxy) -> None:
    direct, store = make_store(), make_store(proxy.url, ping_interval=0.5 * UNIT)
    fill(direct, 10)
    with store.follow() as follower:
        assert sequences(follower, 10) == list(range(1, 11))
        proxy.stall()
        fill(direct, 10)
        eventually(lambda: not store.connection.is_connected)
        proxy.drop()
        proxy.restore()
        assert sequences(follower, 10) == list(range(11, 21))


@pytest.mark.fault
def test_a_consumer_that_is_deleted_is_replaced(make_store: MakeStore, prefix: str) -> None:
    store = make_store()
    fill(store, 5)
    with store.follow() as follower:
        assert sequences(follower, 5) == [1, 2, 3, 4, 5]
        for round_ in range(2):
            answer = store._jetstream.request(
                f"CONSUMER.DELETE.{prefix}.{follower._consumer.decode()}", {}, Deadline(PATIENCE)
            )
            assert "error" not in answer
            fill(store, 2)
            assert sequences(follower, 2) == [6 + 2 * round_, 7 + 2 * round_]
    eventually(lambda: consumers(store) == 0, "the end of all consumers")


def test_a_missing_delivery_is_noticed(make_store: MakeStore) -> None:
    store = make_store()
    fill(store, 1_000)
    with store.follow() as follower:
        arrived = follower._buffer.arrived
        eventually(lambda: len(arrived) == 1_000, "all")
        for _ in range(3):
            del arrived[300]  # as if it had never come
        assert sequences(follower, 1_000) == list(range(1, 1_001))


@pytest.mark.fault
def test_a_stream_that_lost_its_end_is_an_error(make_store: MakeStore, prefix: str) -> None:
    store = make_store()
    fill(store, 10)
    with pytest.raises(StreamRegressionError, match="ends at 10, and was read up to 11"):
        store.follow(after=11)
    follower = store.follow()
    assert sequences(follower, 10)[-1] == 10
    store._jetstream.request(f"STREAM.DELETE.{prefix}", {}, Deadline(PATIENCE))
    fill(make_store(), 3)
    for _ in range(2):
        with pytest.raises(StreamRegressionError, match="not the one that was read up to 10"):
            follower.get(timeout=PATIENCE)
    follower.close()


# -- bounds


def test_what_nobody_takes_stays_in_the_store(make_store: MakeStore) -> None:
    store = make_store()
    fill(store, 3 * _WINDOW)
    with store.follow() as follower:
        buffer = follower._buffer
        assert sequences(follower, 1) == [1]

        def held() -> int:
            return len(follower._ready) + len(buffer.arrived)

        eventually(lambda: not buffer.asked and held() >= _WINDOW // 2, "a full buffer")
        assert held() <= _WINDOW + 256
        assert not follower.is_caught_up
        assert sequences(follower, 3 * _WINDOW - 1) == list(range(2, 3 * _WINDOW + 1))
        eventually(lambda: follower.is_caught_up)


def test_large_events_are_bounded_in_bytes(make_store: MakeStore) -> None:
    store = make_store()
    for version in range(1, 101):
        store.save_event(event(version=version, pad="x" * 900_000))
    with store.follow() as follower:
        buffer = follower._buffer
        assert sequences(follower, 1) == [1]
        eventually(lambda: not buffer.asked, "the end of what was asked")
        for taken in range(2, 12):  # slowly
            assert sequences(follower, 1) == [taken]
            eventually(lambda: not buffer.asked, "the end of what was asked")
            assert sum(len(one[3]) for one in list(buffer.arrived)) < 40 * 2**20
        assert sequences(follower, 89) == list(range(12, 101))


def test_a_follower_is_no_burden_when_it_is_closed_or_dropped(make_store: MakeStore) -> None:
    store = make_store()
    fill(store, 10)
    for _ in range(3):
        with store.follow() as follower:
            follower.get(timeout=PATIENCE)
    eventually(lambda: consumers(store) == 0, "the end of all consumers")
    follower = store.follow()
    with pytest.warns(ResourceWarning, match="unclosed <Follower"):
        del follower
        gc.collect()
    engine = engine_of(store)
    eventually(lambda: len(engine.link.subscriber._interests) == 1, "the end of its subscription")


# -- threads


def test_the_checkpoint_is_behind_what_was_passed_over(make_store: MakeStore) -> None:
    store = make_store()
    fill(store, 3, "wanted")
    fill(store, 5, "other")
    with store.follow(actors="want*") as follower:
        assert sequences(follower, 3) == [1, 2, 3]
        assert follower.get_batch(1, timeout=0.1 * UNIT) == []
        assert follower.sequence == 8


@pytest.mark.concurrent
def test_several_threads_share_a_follower_in_order(make_store: MakeStore) -> None:
    store = make_store()
    fill(store, 5_000)
    taken: list[list[int]] = [[] for _ in range(4)]
    with store.follow() as follower:

        def take(mine: list[int]) -> None:
            for stored in follower:
                mine.append(stored.sequence)
                if stored.sequence == 5_000:
                    follower.close()

        run_threads(*(lambda mine=mine: take(mine) for mine in taken))  # type: ignore[misc]
    assert sorted(chain.from_iterable(taken)) == list(range(1, 5_001))
    assert all(one < next_ for mine in taken for one, next_ in pairwise(mine))


def test_a_close_while_it_begins_is_no_failure(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store()
    follower = store.follow()
    begins, failed = threading.Event(), threading.Event()

    def renew(_: Deadline) -> None:
        begins.set()
        eventually(lambda: follower.closed)
        failed.set()
        raise StoreClosedError("the store is closed")

    with monkeypatch.context() as patch:
        patch.setattr(follower, "_renew", renew)
        follower._ensure_renewal()
        assert begins.wait(PATIENCE)
        store.close()
        assert failed.wait(PATIENCE)
        assert follower._renewer is not None
        follower._renewer.join(PATIENCE)
    assert list(follower) == []


@pytest.mark.concurrent
def test_a_close_releases_every_thread(make_store: MakeStore) -> None:
    store = make_store()
    follower = store.follow()
    ended = []
    threads = [threading.Thread(target=lambda: ended.append(list(follower)), daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(follower._buffer.changed) == 4, "threads that wait")
    store.close()
    for thread in threads:
        thread.join(PATIENCE)
    assert ended == [[]] * 4
    with pytest.raises(StoreClosedError):
        follower.get()
    assert follower.closed


def test_a_connection_that_is_closed_is_a_failure(make_store: MakeStore) -> None:
    store = make_store()
    follower = store.follow()
    timer = threading.Timer(0.1, store.connection.close)
    timer.start()
    with pytest.raises(Exception, match="closed"):
        next(follower)
    timer.join()
    follower.close()


def test_deadlines(make_store: MakeStore) -> None:
    store = make_store()
    with store.follow() as follower:
        for timeout in (0, 0.01):
            with pytest.raises(DeadlineExceededError, match="no event"):
                follower.get(timeout=timeout)
            assert follower.get_batch(5, timeout=timeout) == []


# -- what is not wanted, and a deadline


class Slow:
    """Counts what a follower reads."""

    def __init__(self, follower: JetStreamFollower, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read = 0
        self._decode = follower._reader.event
        monkeypatch.setattr(follower._reader, "event", self._event)

    def _event(self, sequence: int, subject: bytes, data: bytes) -> Event:
        self.read += 1
        return self._decode(sequence, subject, data)


@pytest.mark.parametrize(("count", "size", "at_once"), [(2_000, 10, 256), (100, 100_000, 3)])
def test_what_is_not_wanted_is_passed_over_a_part_at_a_time(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, count: int, size: int, at_once: int
) -> None:
    store = make_store()
    for start in range(1, count + 1, 100):
        store.save_events([event(version=version, pad="x" * size) for version in range(start, start + 100)])
    with store.follow(event_types={"Never"}) as follower:
        eventually(lambda: len(follower._buffer.arrived) == count, "all")
        slow = Slow(follower, monkeypatch)
        with pytest.raises(DeadlineExceededError):
            follower.get(timeout=0)
        assert slow.read <= at_once
        assert follower.get_batch(10, timeout=0) == []
        assert slow.read <= 2 * at_once
        eventually(lambda: follower.get_batch(10, timeout=0) == [] and follower.is_caught_up)
        assert (slow.read, follower.sequence) == (count, count)


def test_a_batch_is_filled_in_time_from_what_is_mostly_not_wanted(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store()
    store.save_event(Event(event_type="Once", actor_id="a-1", version=1))
    fill(store, 2_000)
    with store.follow(event_types={"Once"}) as follower:
        eventually(lambda: len(follower._buffer.arrived) == 2_001, "all")
        slow = Slow(follower, monkeypatch)
        assert len(follower.get_batch(10, timeout=0)) == 1
        assert slow.read <= 2 * 256


# -- the end of the stream


def test_it_is_caught_up_by_the_leaders_word_and_not_by_that_of_a_replica_that_lags(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store()
    fill(store, 3)
    fill(make_store(), 2, "b-1")
    request = store._jetstream.request

    def lagging(subject: str, *args: Any) -> dict[str, Any]:
        answer = request(subject, *args)
        return {**answer, "num_pending": 0} if subject.startswith("CONSUMER.CREATE") else answer

    held: list[Any] = []
    take = PullBuffer.take
    monkeypatch.setattr(store._jetstream, "request", lagging)
    monkeypatch.setattr(PullBuffer, "take", lambda self, messages: held.append((self, messages)))
    with store.follow() as follower:
        eventually(lambda: held, "what is not delivered")
        assert not follower.is_caught_up
        assert follower.get_batch(10, timeout=0.2 * UNIT, until_caught_up=True) == []
        assert not follower.is_caught_up
        monkeypatch.setattr(PullBuffer, "take", take)
        for buffer, messages in held:
            buffer.take(messages)
        got: list[int] = []
        while not follower.is_caught_up:
            got += [one.sequence for one in follower.get_batch(10, timeout=PATIENCE)]
        assert got == [1, 2, 3, 4, 5]


def test_a_leader_that_lacks_what_was_saved_is_not_believed(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is cut off from those who have it; unless the stream was restored, and has it no more."""
    store = make_store()
    fill(store, 3)
    store._cache.last = 7
    with store.follow() as follower:
        assert sequences(follower, 3) == [1, 2, 3]
        assert not follower.is_caught_up
        fill(make_store(), 4)
        assert sequences(follower, 4) == [4, 5, 6, 7]
        eventually(lambda: follower.is_caught_up)
        monkeypatch.setattr("aether_sync.stores._jetstream.follower._DOUBT", 0.2 * UNIT)
        store._cache.last = 9
        assert not follower.is_caught_up
        eventually(lambda: follower.is_caught_up, "the end of the doubt")


@pytest.mark.fault
@pytest.mark.parametrize("how", ["stall", "cut"])
def test_who_is_cut_off_is_not_caught_up(make_store: MakeStore, proxy: Proxy, how: str) -> None:
    direct, store = make_store(), make_store(proxy.url, ping_interval=60)
    fill(direct, 3)
    with store.follow() as follower:
        assert sequences(follower, 3) == [1, 2, 3]
        eventually(lambda: follower.is_caught_up)
        assert follower.is_connected
        getattr(proxy, how)()
        fill(direct, 3)
        eventually(lambda: not follower.is_caught_up)
        eventually(lambda: not follower.is_connected)
        assert follower.get_batch(10, timeout=0.1 * UNIT, until_caught_up=True) == []
        assert not follower.is_caught_up
        proxy.drop()
        proxy.restore()
        assert sequences(follower, 3) == [4, 5, 6]
        eventually(lambda: follower.is_caught_up and follower.is_connected)


def test_the_leader_is_asked_once_a_second_at_most(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store()
    fill(store, 3)
    with store.follow(actors="a-1") as follower:
        assert sequences(follower, 3) == [1, 2, 3]
        eventually(lambda: follower.is_caught_up)
        asked: list[object] = []
        ask_last = store._jetstream.ask_last
        monkeypatch.setattr(store._jetstream, "ask_last", lambda *args: asked.append(args) or ask_last(*args))
        for _ in range(1_000):
            assert follower.is_caught_up
        assert len(asked) <= 10


def test_within_a_save_nothing_of_it_is_given(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server stores a batch record by record: who looks in between is told of a part, which may remain one."""
    store = make_store()
    store.save_event(event("a-1", 1))
    make_store().save_events([event("b-1", version) for version in (1, 2, 3)])
    with store.follow() as follower:
        arrived = follower._buffer.arrived
        eventually(lambda: len(arrived) == 4, "all")
        rest = [arrived.pop(), arrived.pop()]
        ask_at = store._jetstream.ask_at
        monkeypatch.setattr(store._jetstream, "ask_last", lambda stream, subject, deadline: ask_at(stream, 2, deadline))
        monkeypatch.setattr(
            follower, "_end_asked", follower._ended(follower._ask_end(Deadline(PATIENCE)), Deadline(PATIENCE))
        )
        assert sequences(follower, 1) == [1]
        assert follower.is_caught_up
        assert follower.get_batch(10, timeout=0) == []
        assert follower.sequence == 1
        monkeypatch.undo()
        arrived.extend(reversed(rest))
        assert sequences(follower, 3) == [2, 3, 4]
        assert follower.is_caught_up


# -- other pasts


class Restored:
    """A server whose disk is put back to what it was."""

    def __init__(self, directory: Path) -> None:
        self._disk, self._backup = directory / "js", directory / "backup"
        self.server = NATSServer(store_dir=self._disk)

    def back_up(self) -> None:
        self.server.stop()
        shutil.copytree(self._disk, self._backup)
        self.server.start()

    def restore(self) -> None:
        self.server.stop()
        shutil.rmtree(self._disk)
        shutil.copytree(self._backup, self._disk)
        self.server.start()

    def wipe(self) -> None:
        self.server.stop()
        shutil.rmtree(self._disk)
        self.server.start()


@pytest.fixture
def restored(tmp_path: Path) -> Iterator[Restored]:
    disk = Restored(tmp_path)
    with disk.server:
        yield disk


@pytest.mark.fault
@pytest.mark.parametrize("grown", [20, 70], ids=["less", "past the checkpoint"])
@pytest.mark.parametrize("wanted", [None, "a-1"])
def test_a_stream_that_was_restored_and_has_grown_again_is_not_followed_on(
    restored: Restored, grown: int, wanted: str | None
) -> None:
    with JetStreamEventStore(restored.server.url) as store:
        fill(store, 50)
        restored.back_up()
        assert store.connection.wait_connected(PATIENCE)
        fill(store, 50)
        with Proxy(restored.server.port) as proxy, JetStreamEventStore(proxy.url) as far:
            with far.follow(actors=wanted) as follower, far.follow(after=100, actors=wanted) as resumed:
                assert sequences(follower, 100)[-1] == 100
                proxy.cut()
                restored.restore()
                with JetStreamEventStore(restored.server.url) as another:
                    fill(another, grown)
                proxy.restore()
                for one in (follower, resumed):
                    with pytest.raises(StreamRegressionError, match="restored"):
                        one.get(timeout=PATIENCE)
                    assert not one.is_connected
            with far.follow(actors=wanted) as again:
                assert sequences(again, 50 + grown)[-1] == 50 + grown
                eventually(lambda: again.is_caught_up)


@pytest.mark.fault
def test_a_version_of_another_past_is_none_to_append_to(restored: Restored) -> None:
    """The last event of the actor stands at the same sequence in both, and is of another version."""
    with JetStreamEventStore(restored.server.url) as store:
        fill(store, 1)
        restored.back_up()
        assert store.connection.wait_connected(PATIENCE)
        fill(store, 3)
        restored.restore()
        with JetStreamEventStore(restored.server.url) as another:
            fill(another, 2, "b-1")
            fill(another, 1)
        assert store.connection.wait_connected(PATIENCE)
        with pytest.raises(VersionConflictError) as conflict:
            store.append("a-1", event(), expected_version=4, timeout=PATIENCE)
        assert conflict.value.current_version == 2
        assert [one.version for one in store.get_events("a-1", 2)] == [2]
        assert store.append("a-1", event(), expected_version=2)[0].event.version == 3


@pytest.mark.fault
def test_a_stream_that_vanished_with_its_disk_is_told_once(restored: Restored) -> None:
    with JetStreamEventStore(restored.server.url) as store:
        fill(store, 3)
        with store.follow() as follower, store.follow(actors="nobody") as waiting:
            assert sequences(follower, 3) == [1, 2, 3]
            restored.wipe()
            assert store.connection.wait_connected(PATIENCE)
            for one in (follower, waiting):
                with pytest.raises(StreamRegressionError, match="not there any more"):
                    one.get(timeout=PATIENCE)
            with pytest.raises(StoreUnavailableError, match="not there any more"):
                store.start(timeout=PATIENCE)
        assert store.cached_version("a-1") is None
        assert store.append("a-1", event(), expected_version=0)[0].sequence == 1
        with store.follow() as follower:
            assert sequences(follower, 1) == [1]
            eventually(lambda: follower.is_caught_up)


@pytest.mark.parametrize("how", ["append", "get_events", "start", "snapshot"])
def test_a_stream_that_was_deleted_is_told(make_store: MakeStore, prefix: str, how: str) -> None:
    store = make_store()
    fill(store, 3)
    assert "error" not in store._jetstream.request(f"STREAM.DELETE.{prefix}", {}, Deadline(PATIENCE))
    calls: dict[str, Callable[[], object]] = {
        "append": lambda: store.append("a-1", event(), expected_version=3, timeout=PATIENCE),
        "get_events": lambda: store.get_events("a-1"),
        "start": store.start,
        "snapshot": lambda: store.save_snapshot(Snapshot(actor_id="a-1", version=3, state={})),
    }
    with pytest.raises(StoreUnavailableError, match=r"not there any more|stream not found"):
        calls[how]()
    if how in ("get_events", "snapshot"):  # what reads does not say what the next use does
        with pytest.raises(StoreUnavailableError, match="the next use makes the stream anew"):
            store.start()
    assert store.append("a-1", event(), expected_version=0)[0].sequence == 1
    assert store.get_latest_version("a-1") == 1


# -- many followers of one connection


class Asked:
    """What is told to a server, and how many bytes it may bring."""

    def __init__(self, store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes: list[int] = []
        on_write(store, monkeypatch, self._note)

    def _note(self, frame: bytes) -> None:
        if b"CONSUMER.MSG.NEXT" in frame:
            self.bytes.append(json.loads(frame.split(b"\r\n")[1]).get("max_bytes", 0))


def test_what_all_of_a_connection_ask_for_has_a_bound(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait at the end: all that they have asked for may come at once."""
    store = make_store()
    store.start()
    asked = Asked(store, monkeypatch)
    followers = [store.follow() for _ in range(10)]
    consumptions = [store.consumer(f"c-{n}").iterate(prefetch=1_000) for n in range(5)]
    assert len(asked.bytes) == 15
    assert sum(asked.bytes) <= 40 * 2**20
    assert min(asked.bytes) >= 64 * 2**10
    fill(store, 10)
    for one in (*followers, *consumptions):
        for _ in range(10):
            one.get(timeout=PATIENCE)
        one.close()
    with store.follow():
        assert asked.bytes[-1] == 16 * 2**20, "it is alone"


@pytest.mark.concurrent
def test_ten_followers_of_large_events_share_a_connection(make_store: MakeStore) -> None:
    """One of them is not read at all, which holds up no other; and the server cuts nobody off."""
    store = make_store()
    for start in range(1, 201, 20):
        store.save_events([event(version=version, pad="x" * 100_000) for version in range(start, start + 20)])
    followers = [store.follow() for _ in range(10)]
    got: list[list[int]] = [[] for _ in followers[1:]]

    def read(follower: JetStreamFollower, mine: list[int]) -> None:
        while len(mine) < 200:
            mine += [one.sequence for one in follower.get_batch(50, timeout=PATIENCE)]

    def save() -> None:
        for _ in range(20):
            store.append("b-1", event("b-1"), expected_version=ANY_VERSION, timeout=PATIENCE)

    run_threads(
        *(lambda one=one, mine=mine: read(one, mine) for one, mine in zip(followers[1:], got, strict=True)), save
    )  # type: ignore[misc]
    assert all(mine[:200] == list(range(1, 201)) for mine in got)
    assert channel_of(store).counts()["reconnects"] == 0
    assert sequences(followers[0], 200) == list(range(1, 201))
    for one in followers:
        one.close()


# -- interrupts


class Interrupted(Exception):
    """What a handler raises."""


def test_interrupts_lose_at_most_the_event_in_hand(make_store: MakeStore) -> None:
    store = make_store()
    fill(store, 20_000)
    got: list[int] = []
    with store.follow() as follower:
        hammer(min(INTERRUPTS, 500), lambda: got.append(next(follower).sequence) if len(got) < 19_000 else None)
        rest = follower.get(timeout=PATIENCE)
        assert rest.sequence > got[-1]
    assert all(one < next_ for one, next_ in pairwise(got)), "none twice, and in order"
    assert got[-1] - len(got) <= 500, "no more than one for each interrupt"


@pytest.mark.parametrize(
    "line",
    [
        "tokens =", "member =", "self._ready.append(found)", "self._stage(", "self._scanned =",
        "arrived.popleft", "self._number, ", "self._sort_out()",
    ],
)  # fmt: skip
def test_an_interrupt_while_it_reads_loses_nothing(make_store: MakeStore, line: str) -> None:
    store = make_store()
    for version in range(1, 11):
        store.save_event(event("a-1", version))
    fill(store, 40)

    def interrupt() -> None:
        raise Interrupted

    with store.follow() as follower:
        eventually(lambda: follower._buffer.arrived, "events")
        consumer = follower._consumer
        with before(JetStreamFollower._read, line, interrupt), pytest.raises(Interrupted):
            follower.get(timeout=PATIENCE)
        assert sequences(follower, 50) == list(range(1, 51))
        assert follower._consumer == consumer, "nothing need be sent again"


@pytest.mark.parametrize("actors", [None, "a-1"])
@pytest.mark.parametrize("line", ["done =", "ready.extend(found)", "staged.popleft()", "any_found = True"])
def test_an_interrupt_while_it_sorts_out_loses_nothing(make_store: MakeStore, actors: str | None, line: str) -> None:
    store = make_store()
    fill(store, 50)

    def interrupt() -> None:
        raise Interrupted

    with make_store().follow(actors=actors) as follower:
        eventually(lambda: len(follower._buffer.arrived) == 50, "events")
        with before(JetStreamFollower._sort_out, line, interrupt), pytest.raises(Interrupted):
            follower.get(timeout=PATIENCE)
        assert sequences(follower, 50) == list(range(1, 51))


def test_batches_end_where_they_were_saved(make_store: MakeStore) -> None:
    store = make_store()
    store.save_events([event("a-1", 1), event("b-1", 1), event("c-1", 1)])
    store.save_event(event("a-1", 2))
    with store.follow() as follower:
        got = [follower.get(timeout=PATIENCE) for _ in range(4)]
    assert [one.ends_batch for one in got] == [False, False, True, True]
    assert all(isinstance(one, StoredEvent) for one in got)


# -- what a hostile review found


def test_polling_alone_begins_a_broken_flow_again(make_store: MakeStore, prefix: str) -> None:
    store = make_store()
    store.start()
    with store.follow() as follower:
        answer = store._jetstream.request(f"CONSUMER.DELETE.{prefix}.{follower._consumer.decode()}", {}, Deadline(5))
        assert "error" not in answer
        fill(store, 3)
        got: list[int] = []

        def poll() -> bool:
            got.extend(one.sequence for one in follower.get_batch(10, timeout=0))
            return got == [1, 2, 3]

        eventually(poll, "what was stored")


def test_a_stream_made_anew_is_not_followed_on(make_store: MakeStore, prefix: str) -> None:
    store = make_store()
    fill(store, 1)
    with store.follow() as follower:
        assert sequences(follower, 1) == [1]
        store._jetstream.request(f"STREAM.DELETE.{prefix}", {}, Deadline(PATIENCE))
        fill(make_store(), 5)
        with pytest.raises(StreamRegressionError, match="made anew"):
            follower.get(timeout=PATIENCE)


def test_what_a_consumer_that_was_given_up_still_sends_is_not_read(make_store: MakeStore) -> None:
    store = make_store()
    fill(store, 20)
    with store.follow() as follower:
        arrived = follower._buffer.arrived
        eventually(lambda: len(arrived) == 20, "all")
        subject, reply, headers, data = arrived[15]
        arrived.insert(3, (subject, reply.replace(follower._consumer, b"another"), headers, data))
        assert sequences(follower, 20) == list(range(1, 21))


def test_events_larger_than_one_question_may_bring() -> None:
    with NATSServer(config="max_payload: 64MB") as server, JetStreamEventStore(server.url) as store:
        for version in (1, 2, 3):
            pad = "x" * (20 * 2**20 if version == 2 else 10)
            store.save_event(event(version=version, pad=pad), timeout=PATIENCE)
        with store.follow() as follower:
            assert sequences(follower, 3) == [1, 2, 3]
        assert [one.version for one in store.get_events("a-1", timeout=PATIENCE)] == [1, 2, 3]


def test_a_user_who_may_not_pull_is_told() -> None:
    config = """
    authorization { users: [
      { user: u, password: p, permissions: { publish: { allow: ">", deny: "$JS.API.CONSUMER.MSG.NEXT.>" } } }
    ] }
    """
    with NATSServer(config=config) as server:
        url = server.url.replace("nats://", "nats://u:p@")
        with JetStreamEventStore(url) as store, NATSEventBus(store.connection) as bus:
            store.save_event(event(version=1))
            with store.follow() as follower, pytest.raises(PermissionDeniedError, match="NEXT"):
                follower.get(timeout=PATIENCE)
            bus.publish("n", event())
            bus.flush()  # none of its events was refused


def test_a_subject_that_is_no_text(make_store: MakeStore, server: NATSServer, prefix: str) -> None:
    store = make_store()
    fill(store, 1)
    with RawClient(server.port) as client:
        client.send(b"PUB %b.events.a.\xff\xfe 2\r\n{}\r\n" % prefix.encode())
        client.flush()
    fill(store, 1)
    with store.follow() as follower:
        assert sequences(follower, 1) == [1]
        with pytest.raises(MalformedRecordError):
            follower.get(timeout=PATIENCE)
        assert sequences(follower, 1) == [3]
    assert store.actors() == ["a-1"]


def test_a_header_that_only_looks_like_one_of_a_batch_hides_nothing(make_store: MakeStore, server: NATSServer) -> None:
    store = make_store()
    fill(store, 10)
    data = encode_event(event("b-1", 1))
    headers = b"NATS/1.0\r\nNats-Batch-Sequence: 1\r\n\r\n"
    with RawClient(server.port) as client:
        subject = store._names.subject("b-1").encode()
        client.send(b"HPUB %b %d %d\r\n%b%b\r\n" % (subject, len(headers), len(headers + data), headers, data))
        client.flush()
    with make_store().follow() as follower:
        taken = []
        while not follower.is_caught_up:
            taken += follower.get_batch(100, timeout=PATIENCE, until_caught_up=True)
    assert [one.sequence for one in taken] == list(range(1, 12))
