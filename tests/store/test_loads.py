"""Loading actors by what records name and by what is kept: what the stream has, whatever headers and caches say."""

import random
from collections.abc import Callable
from itertools import count, product
from typing import Any

import pytest

from aether_sync import (
    ANY_VERSION,
    Event,
    EventTooLargeError,
    InvalidOptionError,
    JetStreamEventStore,
    MalformedRecordError,
    NATSServer,
    Snapshot,
    StoredEvent,
    VersionConflictError,
)
from aether_sync._codec.encoding import encode_event
from aether_sync._runtime.deadline import Deadline
from aether_sync.events import MAX_VERSION
from aether_sync.stores._jetstream import loader
from aether_sync.stores._jetstream.api import JetStream
from aether_sync.stores._jetstream.cache import Known
from aether_sync.stores._jetstream.earlier import FIRST, Earlier
from aether_sync.stores._jetstream.kept import Kept, KeptEvents, memory_of
from aether_sync.stores._jetstream.loader import Loader
from aether_sync.stores._jetstream.messages import Outgoing, Record
from aether_sync.stores._jetstream.names import Names
from aether_sync.stores._jetstream.stream import settings
from aether_sync.stores._wanted import Wanted

from ..support.common import PATIENCE, UNIT, first_of, run_threads
from ..support.inside import cache_of, jetstream_of, loader_of, names_of
from ..support.stores import ask, event, fill, put

MakeStore = Callable[..., JetStreamEventStore]
_ids = count()


class Asked:
    """Counts the round trips of a store: requests that are sent while another one is awaited make one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.searches = 0
        self.writes = 0
        search, request = Loader._by_search, JetStream._open_call

        def searched(*about: Any) -> Any:
            self.searches += 1
            return search(*about)

        def requested(*about: Any) -> Any:
            self.writes += 1
            return request(*about)

        monkeypatch.setattr(Loader, "_by_search", searched)
        monkeypatch.setattr(JetStream, "_open_call", requested)

    def by(self, load: Callable[[], object]) -> int:
        before = self.writes
        load()
        return self.writes - before


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


@pytest.fixture
def all_by_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is searched for because that is quicker, as streams of tests are small."""
    monkeypatch.setattr(loader, "_DENSE", 0)


def load(store: JetStreamEventStore, actor_id: str, wanted: Wanted = Wanted()) -> list[StoredEvent]:  # noqa: B008
    return loader_of(store).load(actor_id, wanted, Deadline(PATIENCE))


def written_by_go(store: JetStreamEventStore, actor_id: str, version: int, header: bytes = b"") -> int:
    """Store an event with the headers that another program gives it; returns its sequence."""
    subject = names_of(store).subject(actor_id)
    last = jetstream_of(store).last(names_of(store).stream, subject, Deadline(PATIENCE))
    data = encode_event(event(actor_id, version, n=version))
    message = Outgoing(subject, f"go-{next(_ids)}", 0 if last is None else last.sequence, data, None, header)
    return jetstream_of(store).publish(names_of(store).stream, [message], Deadline(PATIENCE)).seq


# -- a model


class History:
    """Random saves by several writers, and what is in the stream then, by actor."""

    ACTORS = ("a-1", "a-2", "b-1")

    def __init__(self, stores: list[JetStreamEventStore], seed: int, *, gaps: bool, go: bool) -> None:
        self.source = random.Random(seed)
        self.stores = stores
        self.gaps = gaps
        self.go = go
        self.events: dict[str, list[tuple[int, int]]] = {one: [] for one in self.ACTORS}  # versions and sequences

    def next_version(self, actor_id: str, after: int | None = None) -> int:
        there = self.events[actor_id]
        before = after if after is not None else there[-1][0] if there else 0
        return before + (self.source.choice((1, 1, 2, 50, 10**6)) if self.gaps else 1)

    def save(self) -> None:
        store, actor_id = self.source.choice(self.stores), self.source.choice(self.ACTORS)
        kind = self.source.choice(("one", "one", "several", "together", "append", *(["go"] if self.go else [])))
        if kind == "go":
            version = self.next_version(actor_id)
            self.events[actor_id].append((version, written_by_go(store, actor_id, version)))
            return
        if kind == "append":
            stored = store.append(actor_id, event(actor_id), expected_version=ANY_VERSION, timeout=PATIENCE)
        else:
            stored = store.save_events(self.planned(kind, actor_id), timeout=PATIENCE)
        for one in stored:
            self.events[one.event.actor_id].append((one.event.version, one.sequence))

    def planned(self, kind: str, actor_id: str) -> list[Event]:
        size = 1 if kind == "one" else self.source.choice((2, 3, 17, 40))
        versions: dict[str, int] = {}
        planned = []
        for _ in range(size):
            who = self.source.choice(self.ACTORS) if kind == "together" else actor_id
            versions[who] = self.next_version(who, versions.get(who))
            planned.append(event(who, versions[who], n=versions[who]))
        return planned

    def wanted(self, actor_id: str) -> Wanted:
        there = self.events[actor_id] or [(5, 5)]
        pick = self.source.choice
        near = lambda value: max(0, value + pick((-1, 0, 1)))  # noqa: E731
        return Wanted(
            first=pick((0, 0, 1, near(pick(there)[0]))),
            last=pick((MAX_VERSION, MAX_VERSION, near(pick(there)[0]))),
            after=pick((0, 0, 0, near(pick(there)[1]))),
            until=pick((MAX_VERSION, MAX_VERSION, MAX_VERSION, near(pick(there)[1]))),
            limit=pick((None, None, 1, 2, 10, 100)),
            reverse=pick((False, True)),
        )

    def expected(self, actor_id: str, wanted: Wanted) -> list[tuple[int, int]]:
        found = [
            (version, sequence)
            for version, sequence in self.events[actor_id]
            if wanted.first <= version <= wanted.last and wanted.after < sequence <= wanted.until
        ]
        if wanted.reverse:
            found.reverse()
        return found if wanted.limit is None else found[: wanted.limit]


@pytest.mark.parametrize(
    ("gaps", "go", "seed"),
    [
        pytest.param(*one, marks=[] if one in {(False, False, 0), (True, True, 1)} else pytest.mark.slow)
        for one in product([False, True], [False, True], range(4))
    ],
)
@pytest.mark.usefixtures("all_by_names")
def test_a_load_returns_what_the_stream_has(
    make_store: MakeStore, asked: Asked, seed: int, gaps: bool, go: bool
) -> None:
    writers = [make_store(), make_store(cache_bytes=0)]
    history = History(writers, seed, gaps=gaps, go=go)
    small = make_store(cache_bytes=20_000)
    empty = 0  # loads of what the end of the actor does not lead to
    for number in range(60):
        history.save()
        if number % 6:
            continue
        for store in (*writers, small, make_store()):
            for actor_id in history.ACTORS:
                wanted = history.wanted(actor_id)
                found = [(one.event.version, one.sequence) for one in load(store, actor_id, wanted)]
                assert found == history.expected(actor_id, wanted), (actor_id, wanted)
                empty += not found
    if not go and not gaps:
        assert asked.searches <= empty, "what records name leads to all of their events"


@pytest.mark.concurrent
def test_loads_beside_writers_have_all_that_was_stored_before(make_store: MakeStore) -> None:
    stores = [make_store(), make_store(), make_store(cache_bytes=3_000)]
    stored = [0]

    def write(store: JetStreamEventStore) -> None:
        for _ in range(40):
            (one, *_) = store.append("a-1", event("a-1"), expected_version=ANY_VERSION, timeout=PATIENCE)
            stored[0] = max(stored[0], one.event.version)

    def read(store: JetStreamEventStore) -> None:
        while stored[0] < 80:
            least = stored[0]
            versions = [one.version for one in store.get_events("a-1", timeout=PATIENCE)]
            assert versions == list(range(1, len(versions) + 1))
            assert len(versions) >= least

    run_threads(
        *(lambda store=store: write(store) for store in stores[:2]),
        *(lambda store=store: read(store) for store in stores),
    )
    assert [one.version for one in make_store().get_events("a-1")] == list(range(1, 81))


@pytest.mark.usefixtures("all_by_names")
@pytest.mark.concurrent
def test_saves_that_share_a_batch_name_their_own_actors_events(make_store: MakeStore, asked: Asked) -> None:
    store = make_store()
    store.start()

    def write(thread: int) -> None:
        for _ in range(12):
            own, other = f"a-{thread}", f"b-{thread}"
            there, elsewhere = store.cached_version(own) or 0, store.cached_version(other) or 0
            planned = [event(own, there + 1), event(other, elsewhere + 1), event(own, there + 2)]
            store.save_events(planned, timeout=PATIENCE)

    run_threads(*(lambda thread=thread: write(thread) for thread in range(8)))
    reader = make_store(cache_bytes=0)
    for thread in range(8):
        for owner in (store, reader):
            assert [one.version for one in owner.get_events(f"a-{thread}")] == list(range(1, 25))
            assert [one.version for one in owner.get_events(f"b-{thread}")] == list(range(1, 13))
        assert load(store, f"a-{thread}") == load(reader, f"a-{thread}"), "batch and ends_batch are those of the save"
    assert not asked.searches


# -- round trips


@pytest.mark.parametrize(
    ("size", "trips"),
    first_of([(1, 1), (2, 2), (16, 2), (17, 3), (256, 3), (257, 4), (2_000, 4)], 6),
)
@pytest.mark.usefixtures("all_by_names")
def test_an_actor_is_found_in_a_few_round_trips(make_store: MakeStore, asked: Asked, size: int, trips: int) -> None:
    writer = make_store()
    for begin in range(1, size + 1, 500):
        fill(writer, "a", *range(begin, min(begin + 500, size + 1)))
    reader = make_store()
    reader.get_latest_version("a")  # finds out whether its last save is whole
    assert asked.by(lambda: reader.get_events("a", timeout=PATIENCE)) == trips + size // 2_000  # one more page
    assert asked.by(lambda: reader.get_events("a", timeout=PATIENCE)) == 1, "it is kept"
    assert not asked.searches


@pytest.mark.usefixtures("all_by_names")
def test_what_another_node_has_stored_since_is_read_alone(make_store: MakeStore, asked: Asked) -> None:
    writer, reader = make_store(), make_store()
    fill(writer, "a", *range(1, 41))
    assert len(reader.get_events("a")) == 40
    fill(writer, "a", *range(41, 46))
    read = []
    asked_for = JetStream.ask_many

    def noted(self: JetStream, stream: str, subject: str, sequences: Any, deadline: Deadline) -> Any:
        read.extend(sequences)
        return asked_for(self, stream, subject, sequences, deadline)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JetStream, "ask_many", noted)
        assert len(reader.get_events("a")) == 45
    assert sorted(read) == [40, 41, 42, 43, 44], "the last that was kept, and those between it and the last one"


def test_an_actor_with_hardly_any_others_between_its_events_is_searched_for(
    make_store: MakeStore, asked: Asked
) -> None:
    """Which takes one request for each thousand, and the server passes over few."""
    writer = make_store()
    for begin in range(1, 601, 300):
        fill(writer, "a", *range(begin, begin + 300))
    for version in range(1, 61):
        fill(writer, "b", version)
        fill(writer, f"c-{version}", *range(1, 11))
    reader = make_store()
    reader.get_latest_version("a")
    assert asked.by(lambda: reader.get_events("a")) <= 3
    assert asked.searches == 1
    assert asked.by(lambda: reader.get_events("a")) == 1, "it is kept all the same"
    assert len(reader.get_events("b")) == 60
    assert len(make_store(cache_bytes=0).get_events("a", 590)) == 11
    assert asked.searches == 1, "not those whose events are far apart, nor for a few of them"


def test_the_last_ten_events_take_two_round_trips_wherever_an_actor_ends(make_store: MakeStore, asked: Asked) -> None:
    writer = make_store()
    reader = make_store(cache_bytes=0)
    for version in range(1, 275):
        writer.save_event(event("a", version))
        if version > 10:
            wanted = Wanted(limit=10, reverse=True)
            found: list[StoredEvent] = []
            assert asked.by(lambda wanted=wanted, found=found: found.extend(load(reader, "a", wanted))) <= 2
            assert [one.event.version for one in found] == list(range(version, version - 10, -1))
    assert not asked.searches


@pytest.mark.usefixtures("all_by_names")
def test_the_last_events_are_found_from_the_end(make_store: MakeStore, asked: Asked) -> None:
    writer = make_store()
    for begin in range(1, 1_001, 500):
        fill(writer, "a", *range(begin, begin + 500))
    reader = make_store(cache_bytes=0)
    reader.get_events("a")  # finds out which saves are whole
    for wanted in (Wanted(first=991), Wanted(limit=10, reverse=True)):
        assert asked.by(lambda wanted=wanted: load(reader, "a", wanted)) == 2
    assert asked.by(lambda: load(reader, "a", Wanted(first=450, last=460))) <= 4
    assert not asked.searches


def test_what_a_node_writes_it_need_not_read(make_store: MakeStore, asked: Asked) -> None:
    store = make_store()
    for _ in range(3):
        store.append("a", event(), event(), expected_version=ANY_VERSION)
    assert asked.by(lambda: store.get_events("a")) == 1
    assert [one.version for one in store.get_events("a")] == [1, 2, 3, 4, 5, 6]
    assert store.get_events("a") == make_store().get_events("a"), "what is kept is what is read"
    assert load(store, "a") == load(make_store(), "a")


# -- headers are only hints


@pytest.mark.usefixtures("all_by_names")
@pytest.mark.parametrize(
    "levels",
    [
        [[1]],  # of another actor
        [[2, 3]],  # the last one is missing
        [[3, 4]],  # the first one is missing
        [[2, 3, 4, 5]],  # its own
        [[0]],
        [[], [4]],  # the end of a run that names less
        *first_of(
            [
                [[4], [3]],
                [[1, 2, 3]],
                [[2, 4]],
                [[5]],
                [[6]],
                [[2**64]],
                [[], []],
                [[9_999]],
                [[], [], [4]],
            ]
        ),
    ],
)
@pytest.mark.parametrize("cache_bytes", first_of([0, 2**20]))
def test_a_header_that_lies_misleads_nobody(make_store: MakeStore, levels: list[list[int]], cache_bytes: int) -> None:
    store = make_store(cache_bytes=cache_bytes)
    fill(store, "other", 1)
    for version in (1, 2, 3):
        store.save_event(event("a", version))
    written_by_go(store, "a", 4, Earlier.of(levels).text)
    for reader in (store, make_store(cache_bytes=cache_bytes)):
        for _ in range(2):
            assert [one.version for one in reader.get_events("a")] == [1, 2, 3, 4]
            assert [one.version for one in reader.get_events("a", 2, 3)] == [2, 3]
            assert [one.event.version for one in load(reader, "a", Wanted(limit=2, reverse=True))] == [4, 3]
    store.append("a", event(), expected_version=4)
    assert [one.version for one in make_store().get_events("a")] == [1, 2, 3, 4, 5]


def test_headers_that_lead_in_a_circle_end_somewhere(make_store: MakeStore) -> None:
    store = make_store(cache_bytes=0)
    fill(store, "other", 1)
    written_by_go(store, "a", 1)
    written_by_go(store, "a", 2, Earlier.of([[4]]).text)
    written_by_go(store, "a", 3, Earlier.of([[3]]).text)
    assert [one.version for one in store.get_events("a", timeout=PATIENCE)] == [1, 2, 3]
    written_by_go(store, "a", 4, Earlier.of([[5]]).text)
    assert [one.version for one in store.get_events("a", timeout=PATIENCE)] == [1, 2, 3, 4]


@pytest.mark.usefixtures("all_by_names")
@pytest.mark.parametrize("shift", first_of([16, 1, 5, 32]))
def test_headers_that_count_more_events_than_there_are_mislead_nobody(make_store: MakeStore, shift: int) -> None:
    store = make_store()
    fill(store, "other", *range(1, 41))
    earlier = FIRST
    for sequence in range(1, shift + 1):
        earlier = earlier.after(sequence)
    for version in range(1, 41):
        earlier = earlier.after(written_by_go(store, "a", version, earlier.text))
    reader = make_store(cache_bytes=0)
    for first, last in ((0, MAX_VERSION), (3, 10), (3, 30), (1, 5), (20, 39), (40, 40)):
        expected = [version for version in range(1, 41) if first <= version <= last]
        assert [one.event.version for one in load(reader, "a", Wanted(first, last))] == expected
        assert [one.event.version for one in load(reader, "a", Wanted(first, last, limit=4))] == expected[:4]
        limited = load(reader, "a", Wanted(first, last, limit=4, reverse=True))
        assert [one.event.version for one in limited] == expected[::-1][:4]


@pytest.mark.usefixtures("all_by_names")
def test_events_without_a_header_are_found_and_those_after_them_by_theirs(make_store: MakeStore, asked: Asked) -> None:
    store = make_store()
    store.start()
    for version in range(1, 31):
        written_by_go(store, "a", version)
    for _ in range(40):
        store.append("a", event(), expected_version=ANY_VERSION)
    reader = make_store(cache_bytes=0)
    assert [one.version for one in reader.get_events("a")] == list(range(1, 71))
    assert asked.searches == 1
    assert [one.version for one in reader.get_events("a", 45)] == list(range(45, 71))
    assert asked.searches == 1, "nobody looks for what records name"
    warm = make_store()
    for _ in range(2):
        assert len(warm.get_events("a")) == 70
    assert asked.searches == 2, "what was found is kept"


@pytest.mark.usefixtures("all_by_names")
@pytest.mark.parametrize("together", [1, 2])
def test_a_header_makes_no_event_too_large(make_store: MakeStore, prefix: str, together: int) -> None:
    other = make_store()
    limited = settings(Names(prefix, None), 1) | {"max_msg_size": 1_000}
    ask(other, f"STREAM.CREATE.{prefix}", limited)
    room = 1_000
    while True:  # find the largest event that is stored as the first of its actor
        try:
            other.save_events([event("b", n + 1, pad="x" * room) for n in range(together)])
            break
        except EventTooLargeError:
            room -= 1
    store = make_store()
    store.save_event(event("a", 1))
    for version in range(2, 40, together):
        store.save_events([event("a", version + n, pad="x" * (room - 20)) for n in range(together)])
    for reader in (store, make_store(cache_bytes=0)):
        assert [one.version for one in reader.get_events("a")] == list(range(1, version + together))


@pytest.mark.usefixtures("all_by_names")
def test_a_writer_that_knows_no_header_begins_anew(make_store: MakeStore, asked: Asked) -> None:
    store = make_store()
    fill(store, "a", *range(1, 21))
    known = cache_of(store).get("a")
    assert known is not None
    cache_of(store)._known["a"] = known._replace(earlier=FIRST)
    store.append("a", event(), expected_version=20)
    fill(store, "a", 22, 23, 24)
    assert [one.version for one in make_store().get_events("a")] == list(range(1, 25))
    assert not asked.searches, "the header of the event that was begun with leads on"


def test_an_actor_of_which_each_record_begins_anew_is_searched_for(make_store: MakeStore, asked: Asked) -> None:
    store = make_store(cache_bytes=0)
    store.start()
    last = 0
    for version in range(1, 101):
        last = written_by_go(store, "a", version, FIRST.after(last).text if last else b"")
    store.get_events("a", 100)
    searches = asked.searches
    assert asked.by(lambda: store.get_events("a")) < 50
    assert asked.searches == searches + 1
    assert [one.version for one in store.get_events("a")] == list(range(1, 101))


def test_a_cache_of_another_past_makes_a_header_that_misleads_nobody(make_store: MakeStore) -> None:
    store = make_store()
    fill(store, "other", 1, 2, 3)
    fill(store, "a", 1, 2, 3)
    cache_of(store)._known["a"] = Known(3, 6, earlier=Earlier.of([[1, 2]]))
    store.append("a", event(), expected_version=3)
    for reader in (make_store(), store):
        assert [one.version for one in reader.get_events("a")] == [1, 2, 3, 4]


def test_what_is_kept_of_another_past_is_not_believed(make_store: MakeStore) -> None:
    store, other = make_store(), make_store()
    fill(store, "a", 1, 2, 3)
    foreign = [StoredEvent(event("a", version), version) for version in (1, 2, 3)]
    loader_of(store).kept.keep("a", Kept(0, foreign, 100))
    assert [one.id for one in store.get_events("a")] == [one.id for one in other.get_events("a")]
    loader_of(store).kept.keep("a", Kept(0, list(foreign), 100))
    other.append("a", event(), expected_version=3)
    assert [one.id for one in store.get_events("a")] == [one.id for one in other.get_events("a")]


def test_records_that_are_not_events_are_told_as_before(make_store: MakeStore) -> None:
    store = make_store()
    fill(store, "a-1", 1, 2)
    put(store, b"nonsense", actor_id="a-1")
    written_by_go(store, "a-1", 3)
    store.append("a-1", event("a-1"), expected_version=3)
    for reader in (store, make_store()):
        with pytest.raises(MalformedRecordError):
            reader.get_events("a-1")
        assert [one.version for one in reader.get_events("a-1", 4)] == [4]


@pytest.mark.usefixtures("all_by_names")
def test_a_server_that_is_behind_is_asked_no_more_than_once(
    make_store: MakeStore, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(cache_bytes=0)
    fill(store, "a", *range(1, 41))
    ask_many = JetStream.ask_many
    late = {38, 39}

    def behind(self: JetStream, stream: str, subject: str, sequences: Any, deadline: Deadline) -> Any:
        return ask_many(self, stream, subject, [one for one in sequences if one not in late] or [10**6], deadline)

    monkeypatch.setattr(JetStream, "ask_many", behind)
    assert [one.version for one in store.get_events("a")] == list(range(1, 41))
    assert not asked.searches, "the leader has what the other server lacks"
    late.update(range(1, 41))
    assert [one.version for one in store.get_events("a")] == list(range(1, 41))
    assert asked.searches == 1, "a server that lacks everything is no server for this"


def test_large_events_are_not_asked_for_all_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """A server ends the connection for which it has to keep too much."""
    with NATSServer(config="jetstream: enabled\nmax_pending: 8MB") as server:
        with JetStreamEventStore(server.url) as store:
            for start in range(1, 121, 40):
                store.save_events([event("a", start + n, text="x" * 200_000) for n in range(40)], timeout=PATIENCE)
            fill(store, "a", 121)
        with JetStreamEventStore(server.url) as store:
            assert len(store.get_events("a", timeout=PATIENCE)) == 121
    assert not [one for one in caplog.messages if "lost the connection" in one]


@pytest.mark.usefixtures("all_by_names")
def test_answers_that_never_come_end_within_the_timeout(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(cache_bytes=0)
    fill(store, "a", *range(1, 41))
    ask_many = JetStream.ask_many

    def silent(self: JetStream, stream: str, subject: str, sequences: Any, deadline: Deadline) -> Any:
        asked = ask_many(self, stream, subject, sequences, deadline)
        asked.forget()
        return asked

    monkeypatch.setattr(JetStream, "ask_many", silent)
    monkeypatch.setattr("aether_sync.stores._jetstream.tries._TRY", 0.3 * UNIT)
    assert len(store.get_events("a", timeout=PATIENCE)) == 40, "they are looked for then"


# -- what is kept


def test_a_store_that_keeps_nothing(make_store: MakeStore) -> None:
    store = make_store(cache_bytes=0)
    fill(store, "a", 1, 2)
    assert len(store.get_events("a")) == 2
    assert loader_of(store).kept.get("a") is None


@pytest.mark.parametrize("cache_bytes", [-1, 1.5, "1", None])
def test_what_may_be_kept_is_a_number_of_bytes(make_store: MakeStore, cache_bytes: Any) -> None:
    with pytest.raises(InvalidOptionError, match="cache_bytes"):
        make_store(cache_bytes=cache_bytes)


def stored(version: int, actor_id: str = "a") -> StoredEvent:
    return StoredEvent(event(actor_id, version), version)


class TestKeptEvents:
    def test_the_actor_that_was_used_last_stays(self) -> None:
        kept = KeptEvents(300)
        for actor_id in ("a", "b", "c"):
            kept.keep(actor_id, Kept(0, [stored(1, actor_id)], 100))
        assert kept.get("a") is not None
        kept.keep("d", Kept(0, [stored(1, "d")], 100))
        assert kept.get("b") is None
        assert kept.get("a") is not None
        kept.add("a", 1, [stored(2)], 150)
        assert [one for one in "abcd" if kept.get(one)] == ["a"]

    def test_what_is_too_large_is_not_kept(self) -> None:
        kept = KeptEvents(300)
        kept.keep("a", Kept(0, [stored(1)], 301))
        assert kept.get("a") is None
        kept.keep("a", Kept(0, [stored(1)], 200))
        kept.add("a", 1, [stored(2)], 200)
        assert kept.get("a") is None
        kept.keep("a", Kept(0, [stored(1)], 300))
        assert kept.get("a") is not None, "what was removed does not count"

    def test_only_what_follows_is_added(self) -> None:
        kept = KeptEvents(1_000)
        kept.add("a", 7, [stored(8)], 10)
        assert kept.get("a") is None, "what is before it is not known"
        kept.add("a", 0, [stored(1)], 10)
        kept.add("a", 1, [stored(2)], 10)
        kept.add("a", 3, [stored(4)], 10)
        there = kept.get("a")
        assert there is not None
        assert [one.sequence for one in there.events] == [1, 2]

    def test_another_reading_takes_the_place_of_the_last(self) -> None:
        kept = KeptEvents(300)
        for _ in range(50):
            kept.keep("a", Kept(0, [stored(1)], 100))
        kept.keep("b", Kept(0, [stored(1, "b")], 200))
        assert kept.get("a") is not None

    def test_forgotten_is_forgotten(self) -> None:
        kept = KeptEvents(300)
        kept.keep("a", Kept(0, [stored(1)], 300))
        kept.forget()
        assert kept.get("a") is None
        kept.keep("b", Kept(0, [stored(1, "b")], 300))
        assert kept.get("b") is not None


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        {"n": 1},
        {"list": list(range(500))},
        {"list": [{"a": n} for n in range(100)]},
        {"list": [f"item {n}" for n in range(100)]},
        {"text": "x" * 5_000},
        {"text": "x" * 5_000 + "\N{GRINNING FACE}"},
        {f"item {n}": f"{n} pieces" for n in range(100)},
        {f"\N{LATIN SMALL LETTER A WITH DIAERESIS}{n}": n for n in range(100)},
    ],
)
def test_the_memory_of_events_is_not_taken_for_less_than_it_is(data: Any) -> None:
    import tracemalloc

    encoded = encode_event(Event(event_type="Happened", actor_id="a", version=1, data=data))
    decoded = [None] * 50
    record = Record(1, "s", b"", encoded)
    from aether_sync._codec.decoding import decode_stored

    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        held: Any = [record.stored(decode_stored(encoded)) for _ in decoded]
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    estimated = memory_of([encoded] * len(held))
    assert taken * 0.9 < estimated < taken * 4


def test_a_snapshot_of_an_earlier_version_knows_its_place(make_store: MakeStore) -> None:
    store = make_store()
    fill(store, "other", 1, 2, 3)
    fill(store, "a", *range(1, 31))
    for reader in (store, make_store(cache_bytes=0)):
        version = 7 if reader is store else 9
        assert reader.save_snapshot(Snapshot(actor_id="a", version=version, state={}))
        latest = reader.get_latest_snapshot("a")
        assert latest is not None
        assert latest.sequence == 3 + version


def test_a_stream_that_was_made_anew_has_nothing_that_is_kept(make_store: MakeStore) -> None:
    store, other = make_store(), make_store()
    fill(store, "a", 1, 2, 3)
    assert len(store.get_events("a")) == 3
    ask(other, f"STREAM.DELETE.{names_of(store).stream}")
    with pytest.raises(Exception, match="not there any more"):
        store.save_event(event("a", 4))
    store.save_event(event("a", 1))
    assert [one.version for one in store.get_events("a")] == [1]
    with pytest.raises(VersionConflictError):
        store.append("a", event(), expected_version=3)
