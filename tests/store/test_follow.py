"""Following a stream: whatever happens to servers, links and streams, every sequence once, and in order."""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aether_sync import (
    ANY_VERSION,
    JetStreamEventStore,
    NATSCluster,
    NATSServer,
    Snapshot,
    StoreUnavailableError,
    StreamRegressionError,
    VersionConflictError,
)
from aether_sync._runtime.deadline import Deadline
from aether_sync.stores._jetstream.pull import PullBuffer

from ..support.common import PATIENCE, UNIT, eventually, first_of, run_threads
from ..support.following import consumers, event, fill, sequences
from ..support.inside import buffer_of, jetstream_of, on_write, pulled_by
from ..support.proxy import Proxy
from ..support.stores import ask, leader_of

MakeStore = Callable[..., JetStreamEventStore]


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
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that knows no such stream, or a shorter one, is believed sooner."""
    monkeypatch.setattr("aether_sync.stores._jetstream.follower._CATCH_UP", 0.3 * UNIT)
    monkeypatch.setattr("aether_sync.stores._jetstream.api._GONE", 0.2 * UNIT)
    monkeypatch.setattr("aether_sync.stores._jetstream.stream._GONE", 0.2 * UNIT)


@pytest.fixture
def proxy(server: NATSServer) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


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
@pytest.mark.parametrize("how", first_of(["kill", "restart"]))
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


@pytest.mark.slow
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
                leader = leader_of(store, cluster)
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
@pytest.mark.parametrize("breaks", first_of([4, 15]))
def test_through_broken_links_every_sequence_comes_once(make_store: MakeStore, proxy: Proxy, breaks: int) -> None:
    direct, store = make_store(), make_store(proxy.url, ping_interval=60)
    writer = Writer(direct)
    got: list[int] = []
    with store.follow() as follower:
        for _ in range(breaks):
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
            answer = ask(store, f"CONSUMER.DELETE.{prefix}.{pulled_by(follower)}")
            assert "error" not in answer
            fill(store, 2)
            assert sequences(follower, 2) == [6 + 2 * round_, 7 + 2 * round_]
    eventually(lambda: consumers(store) == 0, "the end of all consumers")


def test_a_missing_delivery_is_noticed(make_store: MakeStore) -> None:
    store = make_store()
    fill(store, 1_000)
    with store.follow() as follower:
        arrived = buffer_of(follower).arrived
        eventually(lambda: len(arrived) == 1_000, "all")
        for _ in range(3):
            del arrived[300]  # as if it had never come
        assert sequences(follower, 1_000) == list(range(1, 1_001))


@pytest.mark.fault
@pytest.mark.usefixtures("hasty")
def test_a_stream_that_lost_its_end_is_an_error(make_store: MakeStore, prefix: str) -> None:
    store = make_store()
    fill(store, 10)
    with pytest.raises(StreamRegressionError, match="ends at 10, and was read up to 11"):
        store.follow(after=11)
    follower = store.follow()
    assert sequences(follower, 10)[-1] == 10
    ask(store, f"STREAM.DELETE.{prefix}")
    fill(make_store(), 3)
    for _ in range(2):
        with pytest.raises(StreamRegressionError, match="not the one that was read up to 10"):
            follower.get(timeout=PATIENCE)
    follower.close()


# -- the end of the stream


def test_it_is_caught_up_by_the_leaders_word_and_not_by_that_of_a_replica_that_lags(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store()
    fill(store, 3)
    fill(make_store(), 2, "b-1")
    request = jetstream_of(store).request

    def lagging(subject: str, *args: Any) -> dict[str, Any]:
        answer = request(subject, *args)
        return {**answer, "num_pending": 0} if subject.startswith("CONSUMER.CREATE") else answer

    held: list[Any] = []
    take = PullBuffer.take
    monkeypatch.setattr(jetstream_of(store), "request", lagging)
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
def test_who_is_cut_off_is_not_caught_up(
    make_store: MakeStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("aether_sync.stores._jetstream.pull._HEARTBEAT", 0.2 * UNIT)
    monkeypatch.setattr("aether_sync.stores._jetstream.pull._SILENCE", 0.6 * UNIT)
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
        ask_last = jetstream_of(store).ask_last
        monkeypatch.setattr(jetstream_of(store), "ask_last", lambda *args: asked.append(args) or ask_last(*args))
        for _ in range(1_000):
            assert follower.is_caught_up
        assert len(asked) <= 10


def test_within_a_save_nothing_of_it_is_given(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server stores a batch record by record: who looks in between is told of a part, which may remain one."""
    store = make_store()
    store.save_event(event("a-1", 1))
    make_store().save_events([event("b-1", version) for version in (1, 2, 3)])
    with store.follow() as follower:
        arrived = buffer_of(follower).arrived
        eventually(lambda: len(arrived) == 4, "all")
        rest = [arrived.pop(), arrived.pop()]
        ask_at = jetstream_of(store).ask_at
        monkeypatch.setattr(
            jetstream_of(store), "ask_last", lambda stream, subject, deadline: ask_at(stream, 2, deadline)
        )
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
@pytest.mark.parametrize("grown", first_of([70, 20]))
@pytest.mark.parametrize("wanted", first_of(["a-1", None]))
@pytest.mark.usefixtures("hasty")
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
@pytest.mark.usefixtures("hasty")
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
@pytest.mark.usefixtures("hasty")
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
@pytest.mark.usefixtures("hasty")
def test_a_stream_that_was_deleted_is_told(make_store: MakeStore, prefix: str, how: str) -> None:
    store = make_store()
    fill(store, 3)
    assert "error" not in ask(store, f"STREAM.DELETE.{prefix}")
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


@pytest.mark.usefixtures("hasty")
def test_a_stream_made_anew_is_not_followed_on(make_store: MakeStore, prefix: str) -> None:
    store = make_store()
    fill(store, 1)
    with store.follow() as follower:
        assert sequences(follower, 1) == [1]
        ask(store, f"STREAM.DELETE.{prefix}")
        fill(make_store(), 5)
        with pytest.raises(StreamRegressionError, match="made anew"):
            follower.get(timeout=PATIENCE)


# -- ahead of the stream


@pytest.mark.fault
@pytest.mark.usefixtures("hasty")
def test_who_waits_for_a_sequence_is_told_of_a_loss_only_once_it_is_reached(restored: Restored) -> None:
    with JetStreamEventStore(restored.server.url) as store:
        fill(store, 10)
        with pytest.raises(StreamRegressionError):
            store.follow(after=15)
        with store.follow(after=15, allow_ahead=True) as follower:
            restored.back_up()  # it begins anew, and the stream still ends before
            assert store.connection.wait_connected(PATIENCE)
            eventually(lambda: not follower.get_batch(1, timeout=0.05 * UNIT) and follower.is_connected)
            fill(store, 20)
            assert follower.get(timeout=PATIENCE).sequence == 16
            restored.restore()
            with pytest.raises(StreamRegressionError, match="ends at 10"):
                while True:
                    follower.get(timeout=PATIENCE * 2)


@pytest.mark.fault
@pytest.mark.usefixtures("hasty")
def test_who_waits_for_a_sequence_that_the_stream_has_is_told_of_a_loss(restored: Restored) -> None:
    """As who follows without waiting: that the store had ended before was only allowed."""
    with JetStreamEventStore(restored.server.url) as store:
        fill(store, 10)
        restored.back_up()
        assert store.connection.wait_connected(PATIENCE)
        fill(store, 20)
        with store.follow(after=15, allow_ahead=True) as follower:
            restored.restore()
            with pytest.raises(StreamRegressionError, match="ends at 10"):
                while True:
                    follower.get(timeout=PATIENCE * 2)
