"""Reading all actors from a server: what lags, what is no event, what was stored in part, and what it costs."""

import threading
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

import pytest

from aether_sync import (
    DeadlineExceededError,
    JetStreamEventStore,
    MalformedRecordError,
    NATSCluster,
    StoreUnavailableError,
    SubscriptionFilter,
)
from aether_sync._runtime.deadline import Deadline
from aether_sync.stores._jetstream.api import JetStream
from aether_sync.stores._jetstream.messages import Record
from aether_sync.stores._jetstream.saves import Saves, Verdict

from ..support.common import PATIENCE, UNIT, first_of, run_threads
from ..support.inside import jetstream_of
from ..support.requests import Behind, Requests
from ..support.stores import event, fill, leader_of, put, save

MakeStore = Callable[..., JetStreamEventStore]


@pytest.mark.parametrize(
    "ask",
    [
        lambda jetstream, stream, deadline: jetstream.ask_one(stream, 1, deadline),
        lambda jetstream, stream, deadline: jetstream.ask_records(stream, f"{stream}.events.>", 1, 10, deadline),
    ],
    ids=["one", "page"],
)
def test_servers_of_a_stream_that_answer_after_a_while_are_awaited(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, prefix: str, ask: Callable[..., Any]
) -> None:
    """While leaders die there may be nobody for longer than it takes to see that a server has no JetStream."""
    monkeypatch.setattr("aether_sync.stores._jetstream.api._STARTING", 0.1 * UNIT)
    store = make_store()
    fill(store, "a-1", 1)
    jetstream, deadline = jetstream_of(store), Deadline(PATIENCE)
    config = jetstream.request(f"STREAM.INFO.{prefix}", {}, deadline)["config"]

    def answer(direct: bool) -> None:
        jetstream.request(f"STREAM.UPDATE.{prefix}", config | {"allow_direct": direct}, deadline)

    answer(False)
    later = threading.Timer(0.5 * UNIT, answer, [True])
    later.start()
    try:
        records = ask(jetstream, prefix, deadline)(deadline)
    finally:
        later.join()
    assert [one.sequence for one in records] == [1]


class Nothing:
    """The answer of a leader that has no record yet."""

    def __init__(self, answer: Any) -> None:
        self.forget = answer.forget

    def __call__(self, _: Deadline) -> None:
        return None


@pytest.mark.parametrize("actors", first_of(["a-*", None, "a-1", "*-1"]))
@pytest.mark.parametrize("known", [0, 1, 4, 5, 9, 10])
def test_what_a_server_lacks_that_is_behind_is_read_from_the_leader(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, known: int, actors: str | None
) -> None:
    store = make_store()
    stored = [*fill(store, "a-1", 1, 2), *fill(store, "b-1", 1), *fill(store, "a-1", 3), *fill(store, "a-2", 1)]
    stored += store.save_events([event("a-2", 2), event("a-1", 4), event("b-1", 2), event("a-2", 3), event("b-1", 3)])
    wanted = SubscriptionFilter(actor_pattern=actors)
    stored = [one for one in stored if wanted.matches(one.event)]
    real = jetstream_of(store).ask_page
    monkeypatch.setattr(jetstream_of(store), "ask_page", lambda *arguments: Behind(real(*arguments), known))
    assert store.read_all(actors=actors) == stored
    assert store.read_all(actors=actors, limit=2) == stored[:2]
    assert store.read_all(stored[0].sequence, actors=actors) == stored[1:]
    assert store.read_all(actors=actors, until=4) == [one for one in stored if one.sequence <= 4]


def test_a_leader_that_lacks_what_was_saved_here_is_asked_again(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store()
    stored = fill(store, "a-1", 1, 2)
    asked = []
    real = JetStream.ask_last

    def new_leader(self: JetStream, stream: str, subject: str, deadline: Deadline) -> Any:
        asked.append(subject)
        answer = real(self, stream, subject, deadline)
        return Nothing(answer) if len(asked) <= 3 else answer

    monkeypatch.setattr(JetStream, "ask_last", new_leader)
    for call in (
        lambda: store.read_all() == stored,
        lambda: store.read_all(actors="a-*") == stored,
        lambda: store.last_sequence() == 2,
        lambda: store.last_sequence(actors="a-1") == 2,
    ):
        asked.clear()
        assert call()
        assert len(asked) > 3


def test_a_save_that_is_stored_between_two_answers_of_the_leader_is_read_whole(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader has said which is the last record of some actors, and then which is the last of all."""
    store = make_store()
    stored = store.save_events([event("a-1", 1), event("b-1", 1), event("a-2", 1)])
    real, page = JetStream.ask_last, jetstream_of(store).ask_page

    class First:
        def __init__(self, answer: Any) -> None:
            self.forget = answer.forget

        def __call__(self, deadline: Deadline) -> Record | None:
            return jetstream_of(store).next(store.stream, f"{store.stream}.events.>", 1, deadline)

    def earlier(self: JetStream, stream: str, subject: str, deadline: Deadline) -> Any:
        answer = real(self, stream, subject, deadline)
        return First(answer) if subject.endswith(".a.*") else answer

    monkeypatch.setattr(JetStream, "ask_last", earlier)
    monkeypatch.setattr(jetstream_of(store), "ask_page", lambda *arguments: Behind(page(*arguments), 1))
    assert store.read_all(actors="a-*") == [stored[0], stored[2]]


def test_a_restored_stream_is_waited_for_once(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not have what was saved here, and never will."""
    store = make_store()
    fill(store, "a-1", 1)
    store._cache.last = 7
    asked = [0]
    real = JetStream.last

    def counted(*arguments: Any) -> Any:
        asked[0] += 1
        return real(*arguments)

    monkeypatch.setattr(JetStream, "last", counted)
    assert len(store.read_all()) == 1
    assert asked[0] > 1
    asked[0] = 0
    for _ in range(3):
        assert len(store.read_all()) == 1
        assert store.last_sequence() == 1
    assert asked[0] == 0


def test_a_record_that_is_no_event_ends_a_page_and_is_the_error_of_the_next(make_store: MakeStore) -> None:
    store = make_store()
    fill(store, "a-1", 1, 2)
    bad = put(store, b"{}", actor_id="a-2")
    assert put(store, b"", actor_id="a-2") == bad + 1
    fill(store, "a-1", 3)
    for actors, types in ((None, ()), ("a-*", {"Happened"}), ("a-2", {"Never"}), ("a-3*", ())):
        after, seen = 0, []
        while True:
            try:
                page = store.read_all(after, actors=actors, event_types=types)
            except MalformedRecordError as error:
                seen.append(-error.sequence)
                after = error.sequence
            else:
                if not page:
                    break
                seen += [one.sequence for one in page]
                after = page[-1].sequence
        assert seen == ([-3, -4] if actors in ("a-2", "a-3*") else [1, 2, -3, -4, 5])
    assert [one.sequence for one in store.read_all(actors="a-1")] == [1, 2, 5]
    assert [one.sequence for one in store.read_all(until=2)] == [1, 2]
    assert store.last_sequence(actors="a-2") == 4


def test_a_save_of_which_nothing_is_known_is_not_passed_over(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a leader that has just begun to lead, after the one that said where the stream ends."""
    store = make_store()
    store.save_events([event("a-1", 1), event("b-1", 1)])
    monkeypatch.setattr(Saves, "_by_the_leader", lambda *_: Verdict.OPEN)
    monkeypatch.setattr(Saves, "_read_missing", lambda *_: None)
    with pytest.raises(StoreUnavailableError, match="record 1 is not read"):
        make_store().read_all(actors="a-1")


# -- what it costs


def test_a_small_page_is_one_round_trip(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, store = make_store(), make_store()
    for n in range(1, 121, 2):
        writer.save_events([event("a-1", n), event("a-1", n + 1)])
        writer.save_event(event("b-1", n))
    for one in (writer, store):
        one.last_sequence()
        requests = Requests(one, monkeypatch)
        for wanted in (
            {"limit": 99},  # to the end of a save
            {"after": 90},
            {"after": 180},
            {"actors": "a-*", "limit": 40},
            {"actors": "b-1"},
            {"event_types": {"Happened"}, "limit": 30},
        ):
            requests.reset()
            one.read_all(**wanted)  # type: ignore[arg-type]
            assert requests.trips == 1, wanted
        for actors in (None, "b-*", "b-1"):
            requests.reset()
            assert one.last_sequence(actors=actors) == 180
            assert requests.trips == 1, actors


def test_the_last_of_many_actors_is_found_among_the_last_events(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store()
    save(store, 1_000, actors=500)
    store.save_event(event("a.b-1", 1))
    save(store, 1, actor_id="a-x.y")
    requests = Requests(store, monkeypatch)
    assert store.last_sequence(actors="a-*") == 1_000
    assert requests.sent <= 6, "the actors are not asked for one by one"


def test_saves_of_several_actors_are_judged_by_what_follows_them(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, store = make_store(), make_store()
    for version in range(1, 31):
        writer.save_events([event("a-1", version), event("b-1", version)])
    store.last_sequence()
    requests = Requests(store, monkeypatch)
    assert len(store.read_all(actors="a-*")) == 30
    assert requests.sent <= 5, "only of the last save it is asked whether it is whole"


def test_the_next_page_is_on_its_way_while_one_is_read(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store()
    save(store, 5_000, event_type="Rare")
    requests = Requests(store, monkeypatch)
    assert len(store.read_all(limit=3_000)) == 3_000
    assert requests.sent <= 5, "three pages, and where the stream ends"
    requests.reset()
    assert len(store.read_all(limit=5_000, event_types={"Rare"})) == 5_000
    assert requests.sent <= 8
    requests.reset()
    assert store.read_all(limit=10, event_types={"Never"}) == []
    assert requests.sent <= 9, "a page of ten shows that few are wanted"


def test_a_deadline_is_looked_at_between_records(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store()
    save(store, 1_000)
    read = [0]
    real = store._reader.decoded

    def slowly(record: Any) -> Any:
        read[0] += 1
        sleep(0.01)
        return real(record)

    monkeypatch.setattr(store._reader, "decoded", slowly)
    with pytest.raises(DeadlineExceededError, match="within"):
        store.read_all(limit=1_000, timeout=0.4 * UNIT)
    assert read[0] < 120 * UNIT


def test_records_larger_than_a_page(make_store: MakeStore) -> None:
    store = make_store()
    stored = [store.save_event(event("a-1", n, pad="x" * 400_000)) for n in range(1, 31)]
    assert store.read_all(timeout=PATIENCE) == stored
    assert store.read_all(limit=13, actors="a-*", timeout=PATIENCE) == stored[:13]


# -- a cluster


@pytest.mark.fault
@pytest.mark.slow
def test_nothing_is_missed_that_was_saved_before_while_leaders_go(make_store: MakeStore) -> None:
    """Each of two nodes reads what the other has saved, from servers that may be behind, and leaders are killed."""
    with NATSCluster(3) as cluster:
        nodes = [make_store(cluster.url, replicas=3) for _ in range(2)]
        nodes[0].save_event(event("a-0", 1), timeout=PATIENCE)
        saved, done = [1], threading.Event()

        def work(node: JetStreamEventStore, own: int) -> None:
            version, after, got = 1, 0, list[int]()
            while not done.is_set():
                version += 1
                moves = [event(f"a-{own}", version), event(f"b-{own}", version)]
                stored = node.save_events(moves, timeout=PATIENCE * 2)
                saved.append(stored[-1].sequence)
                least = max(saved)
                actors = (None, "a-*")[version % 2]
                page = node.read_all(after, limit=100_000, timeout=PATIENCE * 2)
                got += [one.sequence for one in page]
                assert got == list(range(1, got[-1] + 1))
                assert got[-1] >= least
                after = got[-1]
                last = node.last_sequence(actors=actors, timeout=PATIENCE * 2)
                assert last >= least - (actors is not None)

        def await_saves(count: int) -> None:
            """An election and a save that was under way may take long together."""
            end, least = monotonic() + 4 * PATIENCE, len(saved) + count
            while len(saved) < least:
                assert monotonic() < end, "nobody saves any more"
                sleep(0.01)

        def kill() -> None:
            try:
                for _ in range(2):
                    await_saves(20)
                    leader = leader_of(nodes[0], cluster)
                    leader.kill()
                    await_saves(10)
                    leader.start()
            finally:
                done.set()

        run_threads(lambda: work(nodes[0], 0), lambda: work(nodes[1], 1), kill)
