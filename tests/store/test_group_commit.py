"""What several threads save at the same time is stored in one batch, and each of them is told of its own save alone."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import pytest

from aether_sync import (
    ANY_VERSION,
    AtomicAppendUnsupportedError,
    DeadlineExceededError,
    Event,
    EventTooLargeError,
    JetStreamEventStore,
    NATSServer,
    StoredEvent,
    StoreUnavailableError,
    VersionConflictError,
    WrongThreadError,
)
from aether_sync._runtime.deadline import Deadline
from aether_sync.stores._jetstream.answers import UnknownError
from aether_sync.stores._jetstream.api import JetStream
from aether_sync.stores._jetstream.group_commit import GroupCommit, Landed, Outbound
from aether_sync.stores._jetstream.messages import Outgoing
from aether_sync.stores._jetstream.stream import Stream

from ..support.common import PATIENCE, UNIT, eventually, run_threads
from ..support.inside import client_of, event_loop_of, grouped_by, jetstream_of, names_of
from ..support.signals import INTERRUPTS, hammer
from ..support.stores import ask, take

MakeStore = Callable[..., JetStreamEventStore]


def pair(actor_id: str, first: int = 1, data: dict[str, object] | None = None) -> list[Event]:
    return [Event(event_type="Happened", actor_id=actor_id, version=first + n, data=data) for n in range(2)]


class Gate:
    """Holds the first batch that a store publishes, before it is sent or after it was stored.

    Attributes:
        sizes: How many records each batch has, of those that were let through.
    """

    def __init__(self, store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch, *, sent: bool = False) -> None:
        self._publish, self._sent = jetstream_of(store).publish, sent
        self._held = [True]
        self.holds, self.opened = threading.Event(), threading.Event()
        self.sizes: list[int] = []
        self.then: Callable[[], object] = lambda: None  # in the thread that was held
        monkeypatch.setattr(jetstream_of(store), "publish", self.publish)

    def publish(self, stream: str, messages: Sequence[Outgoing], *args: object) -> object:
        is_held = self._held and self._held.pop()
        if is_held and not self._sent:
            self._hold()
        self.sizes.append(len(messages))
        ack = self._publish(stream, messages, *args)  # type: ignore[arg-type]
        if is_held and self._sent:
            self._hold()
        return ack

    def _hold(self) -> None:
        self.holds.set()
        assert self.opened.wait(PATIENCE)
        self.then()


class Saves:
    """Saves in threads of their own."""

    def __init__(self, store: JetStreamEventStore) -> None:
        self._store = store
        self._threads: list[threading.Thread] = []
        self.stored: dict[str, list[StoredEvent]] = {}
        self.errors: dict[str, BaseException] = {}

    def begin(self, name: str, events: Sequence[Event], timeout: float = PATIENCE) -> None:
        """Begin a save."""

        def work() -> None:
            try:
                self.stored[name] = self._store.save_events(events, timeout=timeout)
            except BaseException as error:
                self.errors[name] = error

        self._threads.append(threading.Thread(target=work, daemon=True))
        self._threads[-1].start()

    def wait_with(self, name: str, events: Sequence[Event], timeout: float = PATIENCE) -> None:
        """Begin a save, and wait until it waits for the one that is under way."""
        waits = len(grouped_by(self._store)) + 1
        self.begin(name, events, timeout)
        eventually(lambda: len(grouped_by(self._store)) >= waits, "that the save waits")

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE * 2)
            assert not thread.is_alive()


@contextmanager
def while_one_is_under_way(
    store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch, *, sent: bool = False
) -> Iterator[tuple[Gate, Saves]]:
    """Save ``first`` and hold it; what the block begins waits for it."""
    store.start(PATIENCE)
    gate, saves = Gate(store, monkeypatch, sent=sent), Saves(store)
    saves.begin("first", pair("first"))
    assert gate.holds.wait(PATIENCE)
    try:
        yield gate, saves
    finally:
        gate.opened.set()
        saves.join()


def versions(store: JetStreamEventStore, actor_id: str) -> list[int]:
    return [one.version for one in store.get_events(actor_id, timeout=PATIENCE)]


def test_saves_that_wait_are_stored_together(store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with while_one_is_under_way(store, monkeypatch) as (gate, saves):
        for name in "abcde":
            saves.wait_with(name, pair(name))
    assert not saves.errors
    assert gate.sizes == [2, 10]
    together = sorted((one for name in "abcde" for one in saves.stored[name]), key=lambda one: one.sequence)
    assert [one.sequence for one in together] == list(range(3, 13))
    assert [one.batch for one in together] == [3, 3, 5, 5, 7, 7, 9, 9, 11, 11], "what one call has saved"
    assert [one.ends_batch for one in together] == [False, True] * 5
    assert all([one.event.actor_id for one in saves.stored[name]] == [name, name] for name in "abcde")
    with store.follow(timeout=PATIENCE) as follower:
        assert take(follower, 12) == [*saves.stored["first"], *together], "as a follower gets them"


def test_one_that_is_refused_harms_no_other(
    store: JetStreamEventStore, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_store()
    with while_one_is_under_way(store, monkeypatch) as (gate, saves):
        other.save_events(pair("b"))
        assert store.get_latest_version("b") == 2
        other.save_events(pair("b", 3))  # which the store has not heard of
        for name in "ac":
            saves.wait_with(name, pair(name))
        saves.wait_with("b", pair("b", 3))
    assert [type(error) for error in saves.errors.values()] == [VersionConflictError]
    assert gate.sizes[:5] == [2, 6, 2, 2, 2], "together, and then each by itself"
    assert [versions(store, name) for name in "abc"] == [[1, 2], [1, 2, 3, 4], [1, 2]]


def test_the_next_events_of_an_actor_wait_for_the_ones_before(
    store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with while_one_is_under_way(store, monkeypatch) as (gate, saves):
        saves.wait_with("same", pair("first"))
        saves.wait_with("other", pair("other"))
    assert [type(error) for error in saves.errors.values()] == [VersionConflictError]
    assert gate.sizes == [2, 2], "the one that cannot succeed any more is not sent"


def test_two_saves_of_an_actor_are_not_sent_together(
    store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with while_one_is_under_way(store, monkeypatch) as (gate, saves):
        for name in ("twin", "other", "its twin"):
            saves.wait_with(name, pair(name.removeprefix("its ")))
    assert [type(error) for error in saves.errors.values()] == [VersionConflictError]
    assert gate.sizes == [2, 4]
    assert [versions(store, name) for name in ("twin", "other")] == [[1, 2]] * 2


def test_one_that_is_too_large_harms_no_other(store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with while_one_is_under_way(store, monkeypatch) as (_, saves):
        saves.wait_with("a", pair("a"))
        saves.wait_with("large", pair("large", data={"x": "x" * 2**20}))
        saves.wait_with("b", pair("b"))
    assert [type(error) for error in saves.errors.values()] == [EventTooLargeError]
    assert [versions(store, name) for name in ("a", "large", "b")] == [[1, 2], [], [1, 2]]


def test_a_server_that_takes_fewer_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    config = "jetstream: { limits: { batch: { max_msgs: 5 } } }"
    with NATSServer(config=config) as server, JetStreamEventStore(server.url) as store:
        with while_one_is_under_way(store, monkeypatch) as (gate, saves):
            for name in "abc":
                saves.wait_with(name, pair(name))
        assert not saves.errors
        assert gate.sizes == [2, 6, 2, 2, 2]
        with pytest.raises(AtomicAppendUnsupportedError):
            store.save_events([*pair("d"), *pair("e"), *pair("f")])
        assert gate.sizes.pop() == 6
        works = [lambda name=name: store.save_events(pair(name), timeout=PATIENCE) for name in map(str, range(20))]
        run_threads(*works)
        assert max(gate.sizes[5:]) <= 5, "it is known by now"


def test_one_whose_time_is_over_is_not_stored(store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with while_one_is_under_way(store, monkeypatch) as (gate, saves):
        saves.wait_with("short", pair("short"), UNIT)
        saves.wait_with("long", pair("long"))
        eventually(lambda: "short" in saves.errors, "that its time is over")
    assert type(saves.errors["short"]) is DeadlineExceededError
    assert "nothing was stored" in str(saves.errors["short"])
    assert gate.sizes == [2, 2]
    assert versions(store, "short") == []


def test_one_whose_time_is_over_while_it_is_under_way_is_unknown(
    store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = GroupCommit(jetstream_of(store), store.stream)
    begun, go_on = threading.Event(), threading.Event()

    def publish(stream: str, messages: Sequence[Outgoing], *args: object) -> object:
        begun.set()
        assert go_on.wait(PATIENCE)
        raise UnknownError("no answer")

    monkeypatch.setattr(jetstream_of(store), "publish", publish)
    taken = Outbound([Outgoing("a", "1", 0, b"")] * 2, set(), 0)
    assert taken.claim(), "by another leader"

    def lead() -> None:
        with pytest.raises(UnknownError, match="no answer"):
            group.publish(Outbound([Outgoing("b", "2", 0, b"")] * 2, set(), 0), Deadline(PATIENCE))

    leader = threading.Thread(target=lead)
    leader.start()
    assert begun.wait(PATIENCE)
    with pytest.raises(UnknownError, match="no answer came to the thread"):
        group.publish(taken, Deadline(UNIT))
    go_on.set()
    leader.join()


@pytest.mark.parametrize("is_stored", [True, False])
def test_an_answer_that_is_lost_is_lost_for_each_who_finds_out(
    store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch, is_stored: bool
) -> None:
    with while_one_is_under_way(store, monkeypatch) as (gate, saves):
        for name in "abc":
            saves.wait_with(name, pair(name))
        publish, lost = jetstream_of(store).publish, [True]

        def lose(stream: str, messages: Sequence[Outgoing], *args: object) -> object:
            if len(messages) == 6 and lost and lost.pop():
                if is_stored:
                    publish(stream, messages, *args)  # type: ignore[arg-type]
                raise UnknownError("no answer")
            return publish(stream, messages, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(jetstream_of(store), "publish", lose)
    assert not saves.errors
    assert {one.duplicate for name in "abc" for one in saves.stored[name]} == {is_stored}
    assert [versions(store, name) for name in "abc"] == [[1, 2]] * 3
    assert store.last_sequence() == 8
    assert sum(gate.sizes) == 8


@pytest.mark.parametrize("sent", [True, False])
def test_a_leader_that_is_interrupted_harms_no_other(
    store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch, sent: bool
) -> None:
    with while_one_is_under_way(store, monkeypatch) as (_, saves):
        for name in "abc":
            saves.wait_with(name, pair(name))
        publish, once = jetstream_of(store).publish, [True]

        def interrupted(stream: str, messages: Sequence[Outgoing], *args: object) -> object:
            if len(messages) == 6 and once and once.pop():
                if sent:
                    publish(stream, messages, *args)  # type: ignore[arg-type]
                raise KeyboardInterrupt
            return publish(stream, messages, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(jetstream_of(store), "publish", interrupted)
    assert [type(error) for error in saves.errors.values()] == [KeyboardInterrupt]
    left = [name for name in "abc" if name in saves.stored]
    assert len(left) == 2
    assert [versions(store, name) for name in left] == [[1, 2]] * 2
    assert not grouped_by(store)


def test_who_was_sent_by_a_leader_that_is_interrupted_need_not_wait_for_the_next_one(
    store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = GroupCommit(jetstream_of(store), store.stream)
    go_on, told, goes_again = threading.Event(), threading.Event(), threading.Event()
    saves = {name: Outbound([Outgoing(name, name, 0, b"")] * 2, set(), 0) for name in ("first", "member", "again")}

    def publish(stream: str, messages: Sequence[Outgoing], *args: object) -> object:
        if messages[0].subject == "again":
            goes_again.set()
            assert told.wait(PATIENCE)
            raise UnknownError("no answer")
        assert go_on.wait(PATIENCE)
        raise KeyboardInterrupt

    def lead() -> None:
        with pytest.raises(KeyboardInterrupt):
            group.publish(saves["first"], Deadline(PATIENCE))
        with pytest.raises(UnknownError):
            group.publish(saves["again"], Deadline(PATIENCE))

    monkeypatch.setattr(jetstream_of(store), "publish", publish)
    assert saves["member"].claim()  # as if it were gathered
    monkeypatch.setattr(group, "_gather", lambda sent, deadline: sent.append(saves["member"]))
    leader = threading.Thread(target=lead)
    leader.start()
    eventually(lambda: group._is_led, "that somebody leads")
    go_on.set()
    assert goes_again.wait(PATIENCE)
    with pytest.raises(UnknownError, match="interrupted"):
        group.publish(saves["member"], Deadline(UNIT))
    told.set()
    leader.join()


def test_what_an_interrupted_leader_has_taken_is_not_sent_again_unseen(
    store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetstream_of(store), "publish", None)
    taken = Outbound([Outgoing("a", "1", 0, b"")] * 2, set(), 0)
    assert taken.claim()
    with pytest.raises(UnknownError, match="interrupted"):
        GroupCommit(jetstream_of(store), store.stream).publish(taken, Deadline(PATIENCE))


def test_a_handler_saves_while_its_thread_leads(store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with while_one_is_under_way(store, monkeypatch) as (gate, saves):
        saves.wait_with("a", pair("a"))
        gate.then = lambda: store.save_events(pair("handler"), timeout=PATIENCE)
    assert not saves.errors
    assert [versions(store, name) for name in ("first", "handler", "a")] == [[1, 2]] * 3


def test_a_closed_store_tells_all(store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with while_one_is_under_way(store, monkeypatch) as (_, saves):
        for name in "abc":
            saves.wait_with(name, pair(name))
        store.close()
    assert len(saves.errors) == 4


def test_a_child_leaves_the_saves_of_its_parents_threads_to_them(
    store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = GroupCommit(jetstream_of(store), store.stream)
    group._queue.append(Outbound([Outgoing("parents", "1", 0, b"")] * 2, set(), 0))
    group._after_fork()
    sent: list[str] = []

    def publish(jetstream: JetStream, stream: str, messages: Sequence[Outgoing], *args: object) -> object:
        sent.extend(message.subject for message in messages)
        raise UnknownError("no answer")

    monkeypatch.setattr(JetStream, "publish", publish)
    with pytest.raises(UnknownError):
        group.publish(Outbound([Outgoing("own", "2", 0, b"")] * 2, set(), 0), Deadline(PATIENCE))
    assert sent == ["own", "own"]


@pytest.mark.parametrize(
    ("changed", "is_grouped"),
    [({}, True), ({"num_replicas": 3}, False)],
    ids=["one replica", "three replicas"],
)
def test_saves_are_grouped_where_batches_are_staged_in_files(
    store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch, changed: dict[str, object], is_grouped: bool
) -> None:
    grouped: list[int] = []

    def publish(self: GroupCommit, save: Outbound, deadline: Deadline) -> Landed:
        grouped.append(len(save.messages))
        return self.publish_alone(save, deadline)

    monkeypatch.setattr(GroupCommit, "publish", publish)
    opened = Stream.open
    monkeypatch.setattr(Stream, "open", lambda *args: opened(*args) | changed)
    store.save_event(pair("a")[0])
    assert not grouped, "one event is no batch"
    store.save_events(pair("b"))
    assert grouped == [2] * is_grouped


# -- under load


@pytest.mark.concurrent
@pytest.mark.slow
def test_many_threads_append_to_few_actors(make_store: MakeStore) -> None:
    stores = [make_store() for _ in range(2)]
    done = [0] * 12

    def work(place: int) -> None:
        store, rng = stores[place % 2], random.Random(place)
        for _ in range(15):
            actor_id = f"a-{rng.randrange(4)}"
            events = [
                Event(event_type="Happened", actor_id=actor_id, data={"by": place, "n": done[place], "of": n})
                for n in range(2)
            ]
            store.append(actor_id, *events, expected_version=ANY_VERSION, timeout=PATIENCE * 4)
            done[place] += 1

    run_threads(*[lambda place=place: work(place) for place in range(12)])
    found: dict[tuple[int, int], list[int]] = {}
    for number in range(4):
        events = stores[0].get_events(f"a-{number}", timeout=PATIENCE)
        assert [one.version for one in events] == list(range(1, len(events) + 1))
        for one in events:
            found.setdefault((one.data["by"], one.data["n"]), []).append(one.data["of"])
    assert done == [15] * 12
    assert found == {(place, n): [0, 1] for place in range(12) for n in range(15)}


@pytest.mark.concurrent
def test_interrupts_leave_the_other_threads_alone(make_store: MakeStore) -> None:
    store = make_store()
    store.start()
    ended, counts = threading.Event(), [0] * 3

    def others(place: int) -> None:
        while not ended.is_set():
            store.save_events(pair(f"b-{place}", 2 * counts[place] + 1), timeout=PATIENCE * 2)
            counts[place] += 1

    threads = [threading.Thread(target=others, args=(place,), daemon=True) for place in range(3)]
    for thread in threads:
        thread.start()
    try:
        hammer(
            min(INTERRUPTS, 200),
            lambda: store.append("m", *_unnumbered("m"), expected_version=ANY_VERSION, timeout=PATIENCE * 2),
        )
    finally:
        ended.set()
        for thread in threads:
            thread.join(PATIENCE * 4)
    assert not any(thread.is_alive() for thread in threads)
    for place in range(3):
        assert versions(store, f"b-{place}") == list(range(1, 2 * counts[place] + 1))
    kept = versions(store, "m")
    assert kept == list(range(1, len(kept) + 1))
    assert len(kept) % 2 == 0
    assert not grouped_by(store)


def _unnumbered(actor_id: str) -> list[Event]:
    return [Event(event_type="Happened", actor_id=actor_id) for _ in range(2)]


def test_a_save_for_which_there_is_no_room_takes_that_of_no_other(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store()
    store.start()
    stream = names_of(store).stream
    config = ask(store, f"STREAM.INFO.{stream}")["config"]
    ask(store, f"STREAM.UPDATE.{stream}", config | {"max_bytes": 600_000})
    gate, saves = Gate(store, monkeypatch), Saves(store)
    saves.begin("first", pair("a-1"))
    assert gate.holds.wait(PATIENCE)
    saves.wait_with("small", pair("b-1"))
    saves.wait_with("large", pair("c-1", data={"pad": "x" * 400_000}))
    saves.wait_with("other", pair("d-1"))
    gate.opened.set()
    saves.join()
    assert isinstance(saves.errors.pop("large"), StoreUnavailableError)
    assert not saves.errors
    for actor_id in ("a-1", "b-1", "d-1"):
        assert versions(store, actor_id) == versions(make_store(), actor_id) == [1, 2]
    assert versions(make_store(), "c-1") == []
    assert 6 in gate.sizes


@pytest.mark.concurrent
def test_a_signal_handler_that_interrupted_a_write_saves_and_loads(make_store: MakeStore) -> None:
    """It holds the lock without which the loop writes nothing for the others, and reads none of its answers."""
    store = make_store()
    store.start()
    ended = threading.Event()

    def work(name: str) -> None:
        for first in range(1, 10**6, 2):
            if ended.is_set():
                return
            store.save_events(pair(name, first), timeout=PATIENCE)

    def handle() -> None:
        shortcut = client_of(store).shortcut
        assert shortcut is not None
        try:
            for first in range(1, 40, 2):
                with shortcut.lock:
                    store.save_events(pair("handled-1", first), timeout=PATIENCE)
                with shortcut.lock:
                    assert len(store.get_events("handled-1", timeout=PATIENCE)) == first + 1
        finally:
            ended.set()

    run_threads(handle, *(partial(work, f"beside-{n}") for n in range(6)))


def test_a_finalizer_on_the_loop_thread_waits_for_nobody(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store()
    store.start()
    gate, saves, refused = Gate(store, monkeypatch), Saves(store), threading.Event()
    saves.begin("first", pair("a-1"))
    assert gate.holds.wait(PATIENCE)

    def finalize() -> None:
        with pytest.raises(WrongThreadError):
            store.save_events(pair("b-1"))
        refused.set()

    event_loop_of(store).call_soon_threadsafe(finalize)
    assert refused.wait(2 * UNIT)
    gate.opened.set()
    saves.join()
    assert not saves.errors
    assert versions(make_store(), "b-1") == []
