"""How much a follower keeps, how many there may be, on how many threads, and who interrupts them."""

import contextlib
import gc
import json
import threading
from collections.abc import Callable
from itertools import chain, pairwise

import pytest

from aether_sync import (
    ANY_VERSION,
    DeadlineExceededError,
    Event,
    JetStreamEventStore,
    MalformedRecordError,
    NATSEventBus,
    NATSServer,
    PermissionDeniedError,
    StoreClosedError,
    StoredEvent,
)
from aether_sync._codec.encoding import encode_event
from aether_sync._nats.interest import Message
from aether_sync._runtime.deadline import Deadline
from aether_sync.stores._jetstream.follower import JetStreamFollower
from aether_sync.stores._jetstream.record_flow import _WINDOW

from ..support.common import PATIENCE, UNIT, eventually, first_of, run_threads
from ..support.following import consumers, event, fill, sequences
from ..support.inside import buffer_of, interests_of, names_of, on_write, pulled_by
from ..support.raw import RawClient
from ..support.signals import INTERRUPTS, before, hammer
from ..support.stores import ask

MakeStore = Callable[..., JetStreamEventStore]


# -- bounds


def test_what_nobody_takes_stays_in_the_store(make_store: MakeStore) -> None:
    store = make_store()
    fill(store, 3 * _WINDOW)
    with store.follow() as follower:
        buffer = buffer_of(follower)
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
    for version in range(1, 61):
        store.save_event(event(version=version, pad="x" * 900_000))
    with store.follow() as follower:
        buffer = buffer_of(follower)
        assert sequences(follower, 1) == [1]
        eventually(lambda: not buffer.asked, "the end of what was asked")
        for taken in range(2, 12):  # slowly
            assert sequences(follower, 1) == [taken]
            eventually(lambda: not buffer.asked, "the end of what was asked")
            assert sum(len(one[3]) for one in list(buffer.arrived)) < 40 * 2**20
        assert sequences(follower, 49) == list(range(12, 61))


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
    eventually(lambda: interests_of(store) == 1, "the end of its subscription")


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
    eventually(lambda: len(buffer_of(follower).changed) == 4, "threads that wait")
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
        self._decode = follower._reader.events
        monkeypatch.setattr(follower._reader, "events", self._events)

    def _events(self, sequences: list[int], messages: list[Message]) -> list[Event | MalformedRecordError]:
        self.read += len(sequences)
        return self._decode(sequences, messages)


@pytest.mark.parametrize(("count", "size", "at_once"), [(2_000, 10, 256), (100, 100_000, 3)])
def test_what_is_not_wanted_is_passed_over_a_part_at_a_time(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, count: int, size: int, at_once: int
) -> None:
    store = make_store()
    for start in range(1, count + 1, 100):
        store.save_events([event(version=version, pad="x" * size) for version in range(start, start + 100)])
    with store.follow(event_types={"Never"}) as follower:
        eventually(lambda: len(buffer_of(follower).arrived) == count, "all")
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
        eventually(lambda: len(buffer_of(follower).arrived) == 2_001, "all")
        slow = Slow(follower, monkeypatch)
        assert len(follower.get_batch(10, timeout=0)) == 1
        assert slow.read <= 2 * 256


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
@pytest.mark.parametrize("count", first_of([4, 10]))
def test_several_followers_of_large_events_share_a_connection(make_store: MakeStore, count: int) -> None:
    """One of them is not read at all, which holds up no other; and the server cuts nobody off."""
    store = make_store()
    for start in range(1, 201, 20):
        store.save_events([event(version=version, pad="x" * 100_000) for version in range(start, start + 20)])
    followers = [store.follow() for _ in range(count)]
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
    assert store.connection.reconnects == 0
    assert sequences(followers[0], 200) == list(range(1, 201))
    for one in followers:
        one.close()


# -- interrupts


class Interrupted(Exception):
    """What a handler raises."""


@pytest.mark.parametrize("interrupts", first_of([min(INTERRUPTS, 100), min(INTERRUPTS, 500)]))
def test_interrupts_lose_at_most_the_event_in_hand(make_store: MakeStore, interrupts: int) -> None:
    store = make_store()
    fill(store, 40 * interrupts)
    got: list[int] = []
    with store.follow() as follower:
        hammer(interrupts, lambda: got.append(next(follower).sequence) if len(got) < 38 * interrupts else None)
        rest = follower.get(timeout=PATIENCE)
        assert rest.sequence > got[-1]
    assert all(one < next_ for one, next_ in pairwise(got)), "none twice, and in order"
    assert got[-1] - len(got) <= interrupts, "no more than one for each interrupt"


_READING = {
    JetStreamFollower._read: [
        "most =", "part =", "self._add(", "self._last =", "self._number =", "arrived.popleft", "self._is_reading =",
        "self._sort_out()", "self._pass_over()", "request_more()",
    ],
    JetStreamFollower._resume: ["was_reading =", "self._is_reading ="],
    JetStreamFollower._part: ["all_of_them =", "return"],
    JetStreamFollower._add: ["found =", "self._scanned ="],
}  # fmt: skip
_ALONE = {JetStreamFollower._add: ["self._ready.extend("]}
_IN_SAVES = {JetStreamFollower._add: ["member =", "self._note_run(", "one =", "self._ready.append(", "self._stage("]}


def _lines(*tables: dict[Callable[..., object], list[str]]) -> list[tuple[Callable[..., object], str]]:
    return [(function, line) for table in tables for function, lines in table.items() for line in lines]


def _read_through_an_interrupt(store: JetStreamEventStore, function: Callable[..., object], line: str) -> None:
    def interrupt() -> None:
        raise Interrupted

    with store.follow() as follower:
        eventually(lambda: len(buffer_of(follower).arrived) == 50, "events")
        consumer = follower._consumer
        with before(function, line, interrupt), pytest.raises(Interrupted):
            follower.get(timeout=PATIENCE)
        assert sequences(follower, 50) == list(range(1, 51))
        assert follower._consumer == consumer, "nothing need be sent again"


@pytest.mark.parametrize(
    ("function", "line"),
    [
        *_lines(_ALONE),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in _lines(_READING)),  # as in whole saves, below
    ],
)
def test_an_interrupt_while_it_reads_loses_nothing(
    make_store: MakeStore, function: Callable[..., object], line: str
) -> None:
    store = make_store()
    for version in range(1, 51):
        store.save_event(event("a-1", version))
    _read_through_an_interrupt(store, function, line)


@pytest.mark.parametrize(("function", "line"), _lines(_READING, _IN_SAVES))
def test_an_interrupt_while_it_reads_whole_saves_loses_nothing(
    make_store: MakeStore, function: Callable[..., object], line: str
) -> None:
    store = make_store()
    for version in range(1, 11):
        store.save_event(event("a-1", version))
    fill(store, 40)
    _read_through_an_interrupt(store, function, line)


def test_who_is_interrupted_again_and_again_comes_forward(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store()
    fill(store, 50)
    got: list[int] = []
    with store.follow() as follower:
        eventually(lambda: len(buffer_of(follower).arrived) == 50, "events")
        decode = follower._reader.events

        def events(sequences: list[int], messages: list[Message]) -> list[Event | MalformedRecordError]:
            if len(sequences) > 1:
                raise Interrupted
            return decode(sequences, messages)

        monkeypatch.setattr(follower._reader, "events", events)
        while len(got) < 50:
            with contextlib.suppress(Interrupted):
                got.append(follower.get(timeout=PATIENCE).sequence)
    assert got == list(range(1, 51))


def test_an_interrupt_hides_no_gap(make_store: MakeStore) -> None:
    def interrupt() -> None:
        raise Interrupted

    store = make_store()
    fill(store, 50)
    with store.follow() as follower:
        arrived = buffer_of(follower).arrived
        eventually(lambda: len(arrived) == 50, "events")
        kept = [arrived.pop() for _ in range(30)]
        with before(JetStreamFollower._read, "self._is_reading = False", interrupt), pytest.raises(Interrupted):
            follower.get(timeout=PATIENCE)
        arrived.extend(kept[-2::-1])  # all but the first of them
        assert sequences(follower, 50) == list(range(1, 51))


@pytest.mark.parametrize("actors", first_of([None, "a-1"]))
@pytest.mark.parametrize("line", ["done =", "ready.extend(found)", "staged.popleft()", "any_found = True"])
def test_an_interrupt_while_it_sorts_out_loses_nothing(make_store: MakeStore, actors: str | None, line: str) -> None:
    store = make_store()
    fill(store, 50)

    def interrupt() -> None:
        raise Interrupted

    with make_store().follow(actors=actors) as follower:
        eventually(lambda: len(buffer_of(follower).arrived) == 50, "events")
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


# -- what else may come


def test_polling_alone_begins_a_broken_flow_again(
    make_store: MakeStore, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aether_sync.stores._jetstream.pull._HEARTBEAT", 0.2 * UNIT)
    monkeypatch.setattr("aether_sync.stores._jetstream.pull._SILENCE", 0.6 * UNIT)
    store = make_store()
    store.start()
    with store.follow() as follower:
        answer = ask(store, f"CONSUMER.DELETE.{prefix}.{pulled_by(follower)}", timeout=5)
        assert "error" not in answer
        fill(store, 3)
        got: list[int] = []

        def poll() -> bool:
            got.extend(one.sequence for one in follower.get_batch(10, timeout=0))
            return got == [1, 2, 3]

        eventually(poll, "what was stored")


def test_what_a_consumer_that_was_given_up_still_sends_is_not_read(make_store: MakeStore) -> None:
    store = make_store()
    fill(store, 20)
    with store.follow() as follower:
        arrived = buffer_of(follower).arrived
        eventually(lambda: len(arrived) == 20, "all")
        subject, reply, headers, data = arrived[15]
        arrived.insert(3, (subject, reply.replace(follower._consumer, b"another"), headers, data))
        assert sequences(follower, 20) == list(range(1, 21))


@pytest.mark.slow
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
        subject = names_of(store).subject("b-1").encode()
        client.send(b"HPUB %b %d %d\r\n%b%b\r\n" % (subject, len(headers), len(headers + data), headers, data))
        client.flush()
    with make_store().follow() as follower:
        taken = []
        while not follower.is_caught_up:
            taken += follower.get_batch(100, timeout=PATIENCE, until_caught_up=True)
    assert [one.sequence for one in taken] == list(range(1, 12))
