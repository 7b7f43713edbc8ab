"""What became of a save whose answer did not come: it is found out, or said to be unknown, and never guessed."""

import gc
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from aether_sync import (
    ANY_VERSION,
    AetherError,
    ClosedError,
    DeadlineExceededError,
    DisconnectedError,
    DuplicateIdError,
    Event,
    JetStreamEventStore,
    NATSCluster,
    NATSServer,
    Snapshot,
    StoredEvent,
    UnknownOutcomeError,
    VersionConflictError,
)
from aether_sync._nats.call import single
from aether_sync._nats.lines import Lines
from aether_sync._nats.requests import Requests
from aether_sync._runtime.deadline import Deadline
from aether_sync.stores._jetstream import tries
from aether_sync.stores._jetstream.answers import BusyError
from aether_sync.stores._jetstream.cache import Known
from aether_sync.stores._jetstream.messages import Record
from aether_sync.stores._jetstream.reader import Reader
from aether_sync.stores._jetstream.writer import _refuse_older

from ..support.common import PATIENCE, UNIT, eventually, first_of, run_threads
from ..support.inside import calls_kept, jetstream_of, names_of
from ..support.proxy import Proxy
from ..support.signals import INTERRUPTS, hammer

MakeStore = Callable[..., JetStreamEventStore]

pytestmark = pytest.mark.fault


def event(version: int = 0, actor_id: str = "a-1") -> Event:
    return Event(event_type="Happened", actor_id=actor_id, version=version, data={"n": version})


@pytest.fixture
def proxy(server: NATSServer) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def store(make_store: MakeStore, proxy: Proxy) -> JetStreamEventStore:
    """A store that speaks through the proxy, and has one event."""
    store = make_store(proxy.url, ping_interval=60)
    store.save_event(event(1))
    return store


@pytest.fixture
def direct(make_store: MakeStore) -> JetStreamEventStore:
    """Another node's, that does not."""
    return make_store()


def versions(store: JetStreamEventStore, actor_id: str = "a-1") -> list[int]:
    return [one.version for one in store.get_events(actor_id, timeout=PATIENCE)]


def in_background(work: Callable[[], object]) -> Callable[[], object]:
    """Begin a work; what is returned waits for its result, or raises its error."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(work())
        except AetherError as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def wait() -> object:
        thread.join(PATIENCE * 2)
        assert results, "it did not end"
        if isinstance(results[0], Exception):
            raise results[0]
        return results[0]

    return wait


SAVES: dict[str, Callable[[JetStreamEventStore], list[StoredEvent]]] = {
    "save_event": lambda store: [store.save_event(event(2), timeout=PATIENCE)],
    "save_events": lambda store: store.save_events([event(2), event(3)], timeout=PATIENCE),
    "append": lambda store: store.append("a-1", event(), expected_version=1, timeout=PATIENCE),
    "append to any": lambda store: store.append("a-1", event(), expected_version=ANY_VERSION, timeout=PATIENCE),
    "append several": lambda store: store.append("a-1", event(), event(), expected_version=1, timeout=PATIENCE),
}


@pytest.mark.parametrize(
    ("answer", "save"),
    [
        pytest.param(answer, save, marks=[] if name in quick else pytest.mark.slow, id=f"{answer}-{name}")
        for answer, quick in (
            ("lost with its connection", {"save_event", "append to any", "append several"}),
            ("never comes", {"save_events"}),
        )
        for name, save in SAVES.items()
    ],
)
def test_without_its_answer_a_save_finds_out_that_it_is_stored(
    store: JetStreamEventStore, direct: JetStreamEventStore, proxy: Proxy, save: SAVES, answer: str
) -> None:
    proxy.mute()
    saved = in_background(lambda: save(store))
    eventually(lambda: direct.get_latest_version("a-1") > 1, "the event in the store")
    if answer == "never comes":
        proxy.restore()  # it comes, but late; the try may be over by then
    else:
        proxy.drop()
        proxy.restore()
    stored = saved()
    assert isinstance(stored, list)
    assert [one.event.version for one in stored] == versions(store)[1:] == versions(direct)[1:]
    assert [one.sequence for one in stored] == list(range(2, 2 + len(stored)))


@pytest.mark.parametrize("behind", [pytest.param(1, marks=pytest.mark.slow), 3, *first_of([2_000, 3_900])])
def test_a_conflict_does_not_read_the_history(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, behind: int
) -> None:
    writer, node = make_store(), make_store()
    for first in range(1, 4_001, 500):
        writer.save_events([event(version) for version in range(first, first + 500)])
    decoded: list[int] = []
    original = Reader.decoded

    def noted(self: Reader, record: Record) -> Event:
        decoded.append(record.sequence)
        return original(self, record)

    monkeypatch.setattr(Reader, "decoded", noted)
    with pytest.raises(VersionConflictError) as conflict:
        node.append("a-1", event(), event(), expected_version=4_000 - behind)
    assert conflict.value.current_version == 4_000
    assert len(decoded) < 20
    decoded.clear()
    first = 4_001 - behind
    there = [writer.get_events("a-1", version, version)[0] for version in (first, 4_000)]
    decoded.clear()
    stored = make_store().save_events(there if behind > 1 else there[:1])
    assert {one.duplicate for one in stored} == {True}
    assert stored[0].sequence == first
    assert len(decoded) < 20 or behind > 3, "what is wanted and lies in between is read"


@pytest.mark.parametrize("half", first_of([500, 2_000]))
def test_a_conflict_amid_others_records_is_found_out(make_store: MakeStore, half: int) -> None:
    writer = make_store()
    for first in range(1, half + 1, 100):
        writer.save_events(
            [event(version * 2) for version in range(first, first + 100)]
            + [event(version, "b-1") for version in range(first, first + 100)]
        )
    for version in (2, 3, half - 1, half, half + 1, 2 * half - 2, 2 * half):
        node = make_store()
        there = writer.get_events("a-1", version, version)
        if there:
            assert node.save_events(there)[0].duplicate
        with pytest.raises(VersionConflictError):
            make_store().save_events([event(version)])


@pytest.mark.parametrize("several", [False, True])
def test_an_unknown_outcome_is_said_and_saving_again_is_safe(
    store: JetStreamEventStore, direct: JetStreamEventStore, proxy: Proxy, several: bool
) -> None:
    new = [event(), event()] if several else [event()]
    proxy.mute()
    with pytest.raises(UnknownOutcomeError, match=r"may be stored, or not.*save_events\(error\.events\)") as caught:
        store.append("a-1", *new, expected_version=1, timeout=0.5 * UNIT)
    assert isinstance(caught.value, TimeoutError)
    assert [one.version for one in caught.value.events] == [2, 3][: len(new)]
    assert [one.id for one in caught.value.events] == [one.id for one in new]
    proxy.drop()
    proxy.restore()
    for _ in range(2):
        again = store.save_events(caught.value.events, timeout=PATIENCE)
        assert all(one.duplicate for one in again)
        assert [one.sequence for one in again] == [2, 3][: len(new)]
    assert versions(direct) == [1, 2, 3][: 1 + len(new)]
    assert all(one.duplicate for one in store.append("a-1", *new, expected_version=1, timeout=PATIENCE))


def test_what_the_server_gets_only_later_is_stored_once(
    store: JetStreamEventStore, direct: JetStreamEventStore, proxy: Proxy
) -> None:
    proxy.stall()
    with pytest.raises(UnknownOutcomeError) as caught:
        store.save_event(event(2), timeout=0.3 * UNIT)
    assert versions(direct) == [1]
    proxy.restore()  # what was tried arrives now, beside what is tried again
    store.save_events(caught.value.events, timeout=PATIENCE)
    eventually(lambda: versions(direct) == [1, 2], "the event, once")
    assert versions(store) == [1, 2]


def test_another_writer_who_comes_first_settles_an_unknown_outcome(
    store: JetStreamEventStore, direct: JetStreamEventStore, proxy: Proxy
) -> None:
    proxy.stall()
    with pytest.raises(UnknownOutcomeError) as caught:
        store.append("a-1", event(), expected_version=1, timeout=0.3 * UNIT)
    direct.append("a-1", event(), expected_version=1)
    proxy.drop()  # with what was stalled in it
    proxy.restore()
    with pytest.raises(VersionConflictError) as conflict:
        store.save_events(caught.value.events, timeout=PATIENCE)
    assert (conflict.value.attempted_version, conflict.value.current_version) == (2, 2)


def test_what_was_never_sent_is_not_unknown(
    own_server: NATSServer, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tries, "_TRY", 0.3 * UNIT)
    store = make_store(own_server.url)
    store.save_event(event(1))
    own_server.stop()
    eventually(lambda: not store.connection.is_connected)
    for save in (lambda: store.save_event(event(2), timeout=0.3 * UNIT), lambda: store.get_events("a-1", timeout=0.1)):
        with pytest.raises(DeadlineExceededError, match="not connected to"):
            save()
    begun = time.monotonic()
    with pytest.raises(DeadlineExceededError, match="not connected to"):
        store.save_event(event(3), timeout=UNIT)
    assert time.monotonic() - begun > 0.7 * UNIT, "it waits as long as it may"
    own_server.start()
    assert store.connection.wait_connected(PATIENCE)
    assert versions(store) == [1], "it was given up, and is not sent later"
    assert store.save_event(event(2), timeout=PATIENCE).sequence == 2


def test_a_save_waits_for_a_server_that_restarts(own_server: NATSServer, make_store: MakeStore) -> None:
    store = make_store(own_server.url)
    store.save_event(event(1))
    own_server.stop()
    saved = in_background(lambda: store.save_event(event(2), timeout=PATIENCE))
    read = in_background(lambda: store.get_events("a-1", timeout=PATIENCE))
    own_server.start()
    assert isinstance(saved(), StoredEvent)
    assert read()
    assert versions(store) == [1, 2]


@pytest.mark.slow
@pytest.mark.concurrent
def test_writers_whose_links_break_count_right(
    make_store: MakeStore, proxy: Proxy, direct: JetStreamEventStore
) -> None:
    stores = [make_store(proxy.url, ping_interval=60) for _ in range(4)]
    done = threading.Event()
    successes = []

    def increment(store: JetStreamEventStore) -> None:
        while not done.is_set():
            try:
                version = store.get_latest_version("a-1", timeout=PATIENCE)
                store.append("a-1", event(), expected_version=version, timeout=PATIENCE)
            except VersionConflictError:
                continue
            successes.append(1)

    def break_links() -> None:
        for _ in range(15):
            seen = len(successes)
            eventually(lambda seen=seen: len(successes) > seen + 5, "some more")  # type: ignore[misc]
            proxy.drop()
        done.set()

    run_threads(break_links, *(lambda store=store: increment(store) for store in stores for _ in range(2)))  # type: ignore[misc]
    assert versions(direct) == list(range(1, len(successes) + 1))


def test_a_leader_who_knows_less_than_what_is_in_doubt_is_not_believed() -> None:
    _refuse_older({"a": Known(3, 30)}, {"a": Known(2, 20)})
    with pytest.raises(BusyError, match="does not know of event 20"):
        _refuse_older({"a": Known(1, 10)}, {"a": Known(2, 20)})


def test_a_question_is_lost_with_its_connection() -> None:
    requests = Requests(Lines())
    sent, unsent, answered = (requests.new_call({"s"}, lambda inbox: inbox, single) for _ in range(3))
    assert sent.claim()
    assert answered.claim()
    answer = (answered.frame, b"", b"", b"yes")
    requests._take([answer, answer])
    requests.pause()
    with pytest.raises(DisconnectedError):
        sent.wait(Deadline(None))
    assert answered.wait(Deadline(None)) == [answer]
    with pytest.raises(DeadlineExceededError):
        unsent.wait(Deadline(0))
    assert not requests._calls, "nothing is kept of them"


def test_a_question_that_nobody_has_any_more_is_forgotten() -> None:
    """Who asked was interrupted before it waited."""
    requests = Requests(Lines())
    asked = requests.new_call({"s"}, lambda inbox: inbox, single)
    assert len(requests._calls) == 1
    del asked
    assert not requests._calls
    requests.send(requests.new_call({"s"}, lambda inbox: inbox, single))  # while there is no connection
    assert not requests._calls
    requests._wakeup = SimpleNamespace(rung=True)  # type: ignore[assignment]  # the loop has not come to it yet
    kept = [requests.new_call({"s"}, lambda inbox: inbox, single) for _ in range(4)]
    assert all(map(requests.put, kept))
    del kept
    assert not requests._calls


# -- interrupts


@pytest.mark.concurrent
def test_interrupted_calls_leave_nothing(make_store: MakeStore) -> None:
    """Of a question that is kept for ever the next ones would be written by the loop, as if many asked at once."""
    store = make_store()
    store.save_event(event(1))

    def work() -> None:
        store.get_events("a-1", timeout=PATIENCE)
        store.append("b-1", event(0, "b-1"), expected_version=ANY_VERSION, timeout=PATIENCE)

    hammer(min(INTERRUPTS, 500), work)

    def nothing_is_kept() -> bool:
        gc.collect()
        return calls_kept(store) == 0

    eventually(nothing_is_kept, "that nothing is kept of them")
    events = store.get_events("b-1", timeout=PATIENCE)
    assert [one.version for one in events] == list(range(1, len(events) + 1))


@pytest.mark.concurrent
@pytest.mark.parametrize("interrupts", first_of([INTERRUPTS // 5, INTERRUPTS]))
def test_interrupted_saves_hold_up_no_other_thread(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, interrupts: int
) -> None:
    """A thread that was woken to wake the next one, or that asks while others are woken, may be interrupted there."""
    monkeypatch.setattr(tries, "_TRY", 10 * PATIENCE)  # so that who is not woken waits for most of its own time-out
    store = make_store()
    store.start(PATIENCE)  # a file of a first use that is interrupted is closed by the collector, with a warning
    stop = threading.Event()
    longest: list[float] = []

    def save(n: int) -> None:
        took = []
        for version in count(1):
            began = time.monotonic()
            store.save_event(event(version, f"a-{n}"), timeout=PATIENCE)
            took.append(time.monotonic() - began)
            if stop.is_set():
                break
        longest.append(max(took))

    threads = [threading.Thread(target=save, args=(n,), daemon=True) for n in range(8)]
    for thread in threads:
        thread.start()
    versions = count(1)
    try:
        hammer(interrupts, lambda: store.save_event(event(next(versions), "b-1"), timeout=PATIENCE))
    finally:
        stop.set()
    for thread in threads:
        thread.join(2 * PATIENCE)
    assert len(longest) == 8
    assert max(longest) < PATIENCE / 2


def everything(store: JetStreamEventStore) -> dict[str, Callable[[], object]]:
    """What a store may be closed over."""

    def follow() -> None:
        with store.follow(timeout=PATIENCE) as follower:
            follower.get_batch(3, timeout=0)

    def consume() -> None:
        with store.consumer("c").iterate(timeout=PATIENCE) as consumption:
            consumption.get_batch(3, timeout=0)

    return {
        "append": lambda: store.append("b-1", event(0, "b-1"), expected_version=ANY_VERSION, timeout=PATIENCE),
        "save_events": lambda: store.save_events([event(1, uuid4().hex), event(1, uuid4().hex)], timeout=PATIENCE),
        "get_events": lambda: store.get_events("a-1", timeout=PATIENCE),
        "iter_events": lambda: list(store.iter_events("a-1", timeout=PATIENCE)),
        "load": lambda: store.load("a-1", timeout=PATIENCE),
        "get_latest_version": lambda: store.get_latest_version("a-1", timeout=PATIENCE),
        "last_sequence": lambda: store.last_sequence(timeout=PATIENCE),
        "actors": lambda: store.actors(timeout=PATIENCE),
        "save_snapshot": lambda: store.save_snapshot(Snapshot(actor_id="a-1", version=1, state={}), timeout=PATIENCE),
        "follow": follow,
        "consume": consume,
        "consumers": lambda: store.consumers(timeout=PATIENCE),
        "dead_letters": lambda: store.consumer("c").dead_letters(timeout=PATIENCE),
        "wait_for": lambda: store.consumer("d").wait_for(0, timeout=PATIENCE),
    }


@pytest.mark.concurrent
@pytest.mark.parametrize("rounds", first_of([2, 10]))
@pytest.mark.parametrize("what", everything(None))  # type: ignore[arg-type]  # only the names
def test_a_handler_closes_the_store_over_what_it_interrupted(make_store: MakeStore, what: str, rounds: int) -> None:
    """What is said then is said in words of ours, and what is stored is never called not stored."""
    first = make_store()
    first.save_event(event(1))
    first.consumer("d").iterate().close()
    for _ in range(rounds):
        store = make_store()
        store.start()
        work = everything(store)[what]
        before = signal.signal(signal.SIGALRM, lambda *_, store=store: store.close())  # type: ignore[misc]
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(5e-4, 2e-2))
            with pytest.raises((ClosedError, UnknownOutcomeError)):
                while True:
                    work()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert store.closed


# -- the same id


def test_a_replicated_stream_knows_message_ids_first(make_store: MakeStore) -> None:
    with NATSCluster(3) as cluster:
        store, fresh = make_store(cluster.url, replicas=3), make_store(cluster.url, replicas=3)
        first = Event(id="one", event_type="Happened", actor_id="a-1", version=1, data={"n": 1})
        store.save_event(first, timeout=PATIENCE)
        assert fresh.save_event(first, timeout=PATIENCE).duplicate
        for node in (fresh, make_store(cluster.url, replicas=3)):
            with pytest.raises(DuplicateIdError, match="'one'"):
                node.save_event(first.replace(data={"n": 2}), timeout=PATIENCE)
        assert store.save_event(first.replace(version=2), timeout=PATIENCE).sequence == 2
        for each in (store, fresh, node):
            each.close()


def test_what_is_stored_under_an_id_is_compared(make_store: MakeStore) -> None:
    store = make_store()
    first = Event(id="one", event_type="Happened", actor_id="a-1", version=1, data={"n": 1})
    store.save_event(first)
    for other in (first.replace(data={"n": 2}), first.replace(event_type="Else")):
        with pytest.raises(DuplicateIdError, match="'one'"):
            make_store().save_event(other)  # also by who does not know the actor yet: the server knows the message id
    assert store.save_event(first.replace(command_id="again")).duplicate
    assert store.save_event(first.replace(actor_id="a-2")).sequence == 2, "another actor's is another event"
    assert versions(store) == [1]


def test_an_older_event_is_found_behind_newer_ones(make_store: MakeStore) -> None:
    store = make_store()
    events = [event(version) for version in range(1, 101)]
    store.save_events(events)
    fresh = make_store()
    assert fresh.save_event(events[2]) == StoredEvent(events[2], 3, duplicate=True)
    assert [one.sequence for one in fresh.save_events(events[40:50])] == list(range(41, 51))
    with pytest.raises(VersionConflictError):
        fresh.save_event(event(50))
    with pytest.raises(VersionConflictError):  # one of them is there, the other is not
        fresh.save_events([events[99], event(101)])
    assert versions(store) == list(range(1, 101))


def test_a_save_over_which_its_store_is_closed_is_unknown(
    store: JetStreamEventStore, direct: JetStreamEventStore, proxy: Proxy
) -> None:
    proxy.mute()
    saved = in_background(lambda: store.save_event(event(2), timeout=PATIENCE))
    eventually(lambda: direct.get_latest_version("a-1") == 2, "the event in the store")
    store.connection.close(timeout=0)
    with pytest.raises(UnknownOutcomeError, match="closed"):
        saved()


@pytest.mark.slow
def test_a_leader_who_knows_less_than_was_acknowledged_settles_nothing(
    store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch, proxy: Proxy
) -> None:
    store.save_event(event(2))
    older = jetstream_of(store).next(names_of(store).stream, names_of(store).subject("a-1"), 1, Deadline(PATIENCE))
    asked = []

    class Older:
        """A new leader, who has not caught up with what another had acknowledged."""

        def __call__(self, _: Deadline) -> Record | None:
            return older

        def forget(self) -> None: ...

    def last(*_: Any) -> Any:
        asked.append(1)
        return Older() if len(asked) < 5 else real(*_)

    real = jetstream_of(store).ask_last
    monkeypatch.setattr(jetstream_of(store), "ask_last", last)
    proxy.mute()
    saved = in_background(lambda: store.append("a-1", event(), expected_version=2, timeout=PATIENCE))
    eventually(lambda: asked, "a look at the leader")
    proxy.restore()
    stored = saved()
    assert isinstance(stored, list)
    assert [one.sequence for one in stored] == [3]


def test_a_question_is_not_awaited_longer_because_links_broke_or_there_was_no_leader(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one may go to a server that dies; only one that did not answer in time may just be slow."""
    jetstream = jetstream_of(make_store())
    waited: list[float | None] = []
    no_leader = (b"", b"", b"NATS/1.0 503\r\n\r\n", b"")
    outcomes: list[object] = [DisconnectedError("away")] * 4 + [[no_leader]] * 4 + [DeadlineExceededError("slow")] * 2

    def wait(_: object, patience: Deadline, __: Deadline) -> Any:
        waited.append(patience.timeout)
        outcome = outcomes.pop(0) if outcomes else [(b"", b"", b"", b"{}")]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(jetstream, "_wait", wait)
    assert jetstream.request("STREAM.INFO.none", {}, Deadline(1_000)) == {}
    assert waited == [tries._TRY] * 9 + [2 * tries._TRY, 4 * tries._TRY]
