"""Following a stream: whatever happens to servers, links and consumers, every sequence once, and in order."""

import gc
import threading
from collections.abc import Callable, Iterator
from itertools import chain, pairwise

import pytest

from aether_sync import (
    ANY,
    DeadlineExceededError,
    Event,
    JetStreamEventStore,
    MalformedRecordError,
    NatsCluster,
    NATSEventBus,
    NatsServer,
    PermissionDeniedError,
    StoreClosedError,
    StoredEvent,
    StreamRegressionError,
)
from aether_sync._deadline import Deadline
from aether_sync.stores.follow import _WINDOW, JetStreamFollower

from .conftest import PATIENCE, UNIT, eventually, run_threads
from .proxy import Proxy
from .raw import RawClient
from .steps import before
from .test_interrupts import INTERRUPTS, hammer

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
            self._store.append("w-1", event("w-1"), expected_version=ANY, timeout=PATIENCE * 2)
            self.written += 1

    def stop(self) -> int:
        """Stop, and return the sequence of the last event."""
        self._stopped.set()
        self._thread.join(PATIENCE * 3)
        assert not self._thread.is_alive()
        return self._store.last_sequence(timeout=PATIENCE)


@pytest.fixture
def proxy(server: NatsServer) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


def consumers(store: JetStreamEventStore) -> int:
    stream = store._names.stream
    answer = store._jetstream.request(f"STREAM.INFO.{stream}", {}, Deadline(PATIENCE))
    return int(answer["state"]["consumer_count"])


def test_it_asks_again_when_a_question_has_ended(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aether_sync.stores._pull._EXPIRES", 0.2)
    monkeypatch.setattr("aether_sync.stores._pull._HEARTBEAT", 0.05)
    store = make_store()
    store.start()
    with store.follow() as follower:
        questions: list[bytes] = []
        tell = store.connection.tell
        monkeypatch.setattr(store.connection, "tell", lambda frame: (questions.append(frame), tell(frame)))

        def late() -> None:
            eventually(lambda: len(questions) == 5, "questions, though nothing is stored")
            fill(store, 1)

        run_threads(lambda: sequences(follower, 1), late)


# -- faults


@pytest.mark.fault
@pytest.mark.parametrize("how", ["restart", "kill"])
def test_through_two_server_restarts_every_sequence_comes_once(
    own_server: NatsServer, make_store: MakeStore, how: str
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
    with NatsCluster(3) as cluster:
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
        arrived = follower._inflow.arrived
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
        inflow = follower._inflow
        assert sequences(follower, 1) == [1]

        def held() -> int:
            return len(follower._ready) + len(inflow.arrived)

        eventually(lambda: not inflow.asked and held() >= _WINDOW // 2, "a full buffer")
        assert held() <= _WINDOW + 256
        assert not follower.is_caught_up
        assert sequences(follower, 3 * _WINDOW - 1) == list(range(2, 3 * _WINDOW + 1))
        eventually(lambda: follower.is_caught_up)


def test_large_events_are_bounded_in_bytes(make_store: MakeStore) -> None:
    store = make_store()
    for version in range(1, 101):
        store.save_event(event(version=version, pad="x" * 900_000))
    with store.follow() as follower:
        inflow = follower._inflow
        assert sequences(follower, 1) == [1]
        eventually(lambda: not inflow.asked, "the end of what was asked")
        assert sum(len(one[3]) for one in list(inflow.arrived)) < 40 * 2**20
        assert sequences(follower, 99) == list(range(2, 101))


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
    engine = store.connection._engine
    assert engine is not None
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


@pytest.mark.concurrent
def test_a_close_releases_every_thread(make_store: MakeStore) -> None:
    store = make_store()
    follower = store.follow()
    ended = []
    threads = [threading.Thread(target=lambda: ended.append(list(follower)), daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(follower._inflow.changed) == 4, "threads that wait")
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
    "line", ["tokens =", "self._ready.append(StoredEvent", "self._scanned =", "arrived.popleft", "self._number, "]
)
def test_an_interrupt_while_it_reads_loses_nothing(make_store: MakeStore, line: str) -> None:
    store = make_store()
    fill(store, 50)

    def interrupt() -> None:
        raise Interrupted

    with store.follow() as follower:
        eventually(lambda: follower._inflow.arrived, "events")
        consumer = follower._consumer
        with before(JetStreamFollower._read, line, interrupt), pytest.raises(Interrupted):
            follower.get(timeout=PATIENCE)
        assert sequences(follower, 50) == list(range(1, 51))
        assert follower._consumer == consumer, "nothing need be sent again"


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
        arrived = follower._inflow.arrived
        eventually(lambda: len(arrived) == 20, "all")
        subject, reply, headers, data = arrived[15]
        arrived.insert(3, (subject, reply.replace(follower._consumer, b"another"), headers, data))
        assert sequences(follower, 20) == list(range(1, 21))


def test_events_larger_than_one_question_may_bring() -> None:
    with NatsServer(config="max_payload: 64MB") as server, JetStreamEventStore(server.url) as store:
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
    with NatsServer(config=config) as server:
        url = server.url.replace("nats://", "nats://u:p@")
        with JetStreamEventStore(url) as store, NATSEventBus(store.connection) as bus:
            store.save_event(event(version=1))
            with store.follow() as follower, pytest.raises(PermissionDeniedError, match="NEXT"):
                follower.get(timeout=PATIENCE)
            bus.publish("n", event())
            bus.flush()  # none of its events was refused


def test_a_subject_that_is_no_text(make_store: MakeStore, server: NatsServer, prefix: str) -> None:
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
