"""Where events are on the server, and as what: Go's layout; names that stay apart; records that are no events."""

import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aether_sync import (
    DeadlineExceededError,
    Event,
    JetStreamEventStore,
    MalformedRecordError,
    NATSCluster,
    NATSServer,
    Snapshot,
    StoredEvent,
    StoreError,
    StreamMismatchError,
    StreamRegressionError,
    SubscriptionFilter,
    VersionConflictError,
    flush_logs,
)
from aether_sync._codec.decoding import decode_stored
from aether_sync._runtime.deadline import Deadline
from aether_sync.patterns import actor_type
from aether_sync.stores._jetstream import walk
from aether_sync.stores._jetstream.messages import Record
from aether_sync.stores._jetstream.names import Names
from aether_sync.stores._jetstream.stream import settings, snapshot_settings
from aether_sync.stores.consumers.dead_letters import _settings as dead_letter_settings

from ..support.common import PATIENCE, UNIT, eventually
from ..support.inside import jetstream_of, names_of
from ..support.raw import RawClient
from ..support.requests import Behind, Requests
from ..support.stores import ask

MakeStore = Callable[..., JetStreamEventStore]


def event(version: int = 1, actor_id: str = "order-1", **data: Any) -> Event:
    return Event(event_type="Happened", actor_id=actor_id, version=version, data=data)


def record(store: JetStreamEventStore, sequence: int) -> tuple[str, bytes]:
    """Subject and body of what is stored at a sequence."""
    stream = names_of(store).stream
    found = jetstream_of(store).next(stream, f"{stream}.events.>", sequence, Deadline(PATIENCE))
    assert found is not None
    return found.subject, found.data


def put(server: NATSServer, subject: str, body: bytes) -> None:
    """Store something past the library, as another program might."""
    with RawClient(server.port) as client:
        client.publish(subject, body)
        client.flush()


# -- Go's layout


@pytest.mark.parametrize(
    ("actor_id", "tokens"),
    [
        ("order-1", "order.order-1"),
        ("order-a-b", "order.order-a-b"),
        ("user_7", "unknown.user_7"),
        ("-x", "unknown.-x"),
        ("user@example-com", "user@example.user@example-com"),
        ("a.b-1", "a%2Eb.a%2Eb-1"),
        ("žluť-1", "%C5%BElu%C5%A5.%C5%BElu%C5%A5-1"),
        ("100%-1", "100%25.100%25-1"),
    ],
)
def test_the_subject_of_an_actor(make_store: MakeStore, prefix: str, actor_id: str, tokens: str) -> None:
    store = make_store()
    store.save_event(event(1, actor_id))
    assert record(store, 1)[0] == f"{prefix}.events.{tokens}"
    assert store.actors() == [actor_id]


def test_the_body_is_the_event_as_go_writes_it(make_store: MakeStore) -> None:
    store = make_store()
    saved = Event(
        event_type="OrderPlaced",
        actor_id="order-1",
        version=1,
        data={"qty": 3},
        command_id="c-1",
        metadata={"correlationId": "x"},
    )
    store.save_event(saved)
    assert json.loads(record(store, 1)[1]) == {
        "id": saved.id,
        "eventType": "OrderPlaced",
        "actorId": "order-1",
        "commandId": "c-1",
        "version": 1,
        "data": {"qty": 3},
        "metadata": {"correlationId": "x"},
        "timestamp": saved.timestamp.isoformat().replace("+00:00", "Z"),
    }


def test_what_a_node_in_go_stores_is_read(make_store: MakeStore, server: NATSServer, prefix: str) -> None:
    store = make_store()
    store.save_event(event(1))
    body = (
        b'{"id":"g-2","eventType":"OrderPaid","actorId":"order-1","version":2,"data":{"sum":1.5e2,"n":null},'
        b'"timestamp":"2026-01-02T03:04:05.123456789+01:00"}'
    )
    put(server, f"{prefix}.events.order.order-1", body)
    (_, paid) = store.get_events("order-1")
    assert (paid.id, paid.version, paid.data) == ("g-2", 2, {"sum": 150.0, "n": None})
    assert paid.timestamp.isoformat() == "2026-01-02T02:04:05.123456+00:00"
    assert store.append("order-1", event(0), expected_version=2)[0].event.version == 3
    with store.follow(after=1) as follower:
        assert follower.get(timeout=PATIENCE) == StoredEvent(paid, 2)


# -- who makes the streams


def streams_of(store: JetStreamEventStore) -> dict[str, dict[str, Any]]:
    """The settings of a store's streams that there are, by what each is for."""
    names, found = names_of(store), {}
    for use, name in (("events", names.stream), ("snapshots", names.snapshots), ("dead_letters", names.dead_letters)):
        answer = ask(store, f"STREAM.INFO.{name}")
        if "config" in answer:
            found[use] = answer["config"]
    return found


def read_all(store: JetStreamEventStore) -> list[object]:
    """Read in every way there is."""
    reading = store.get_events_with_errors("a-1")
    loaded = store.load("a-1")
    together = store.read_together("a-1", "b-1")
    return [
        store.get_events("a-1"),
        list(store.iter_events("a-1")),
        reading.events,
        reading.malformed,
        loaded.events,
        loaded.snapshot or [],
        together["a-1"] + together["b-1"],
        store.get_latest_version("a-1") or [],
        store.last_sequence() or [],
        store.actors(),
        store.get_latest_snapshot("a-1") or [],
        store.consumers(),
        store.consumer("c").dead_letters(),
        store.consumer("c").discard_dead_letter(1) or [],
        store.consumer("c").delete() or [],
    ]


def test_who_reads_makes_no_stream(make_store: MakeStore) -> None:
    store = make_store()
    assert read_all(store) == [[]] * 15
    with pytest.raises((StoreError, DeadlineExceededError)):
        store.consumer("c").wait_for(1, timeout=0.1 * UNIT)
    with pytest.raises(VersionConflictError):
        store.save_snapshot(Snapshot(actor_id="a-1", version=1, state={}))
    assert streams_of(store) == {}
    make_store().save_event(event(1, "b-1"))
    assert read_all(store)[:6] == [[]] * 6
    assert store.actors() == ["b-1"]
    assert streams_of(store).keys() == {"events"}


def test_the_first_save_makes_the_stream_and_others_find_it(make_store: MakeStore) -> None:
    reader, writer = make_store(), make_store()
    assert reader.get_events("order-1") == []
    writer.save_event(event(1))
    assert [one.version for one in reader.get_events("order-1")] == [1]
    assert reader.load("order-1").version == reader.get_latest_version("order-1") == reader.last_sequence() == 1


def test_a_follower_waits_for_the_first_event_of_all(make_store: MakeStore) -> None:
    reader, writer = make_store(), make_store()
    with reader.follow() as follower:
        assert follower.is_caught_up
        assert follower.get_batch(10, timeout=0) == []
        assert streams_of(reader) == {}
        writer.save_event(event(1))
        assert follower.get(timeout=PATIENCE).sequence == 1
        reader.save_event(event(2))
        assert follower.get(timeout=PATIENCE).sequence == 2
        eventually(lambda: follower.is_caught_up)


def test_a_follower_of_no_stream_is_not_caught_up_with_what_its_store_saves(make_store: MakeStore) -> None:
    store = make_store()
    with store.follow() as follower:
        store.save_event(event(1))
        assert not follower.is_caught_up
        assert follower.get(timeout=PATIENCE).sequence == 1


def test_a_follower_that_waits_for_its_stream_is_closed(make_store: MakeStore) -> None:
    store = make_store()
    follower = store.follow()
    assert "not there yet" in repr(follower)
    with pytest.raises(DeadlineExceededError, match="not there yet"):
        follower.get(timeout=0.05 * UNIT)
    store.close()
    assert follower.closed


def test_a_checkpoint_of_a_stream_that_is_not_there_is_an_error(make_store: MakeStore) -> None:
    with pytest.raises(StreamRegressionError, match="no stream"):
        make_store().follow(after=7)


def test_a_checkpoint_of_a_stream_that_is_not_there_may_be_allowed(make_store: MakeStore) -> None:
    store = make_store()
    with store.follow(after=2, allow_ahead=True) as follower:
        assert follower.get_batch(5, timeout=0.05 * UNIT) == []
        for version in range(1, 5):
            store.save_event(event(version))
        assert [follower.get(timeout=PATIENCE).sequence for _ in range(2)] == [3, 4]


def test_who_follows_a_stream_that_is_made_otherwise_is_told(make_store: MakeStore, prefix: str) -> None:
    store = make_store()
    with store.follow() as follower:
        body = {"name": prefix, "subjects": [f"{prefix}.events.>"], "max_age": 3600 * 10**9}
        assert "error" not in ask(store, f"STREAM.CREATE.{prefix}", body)
        with pytest.raises(StreamMismatchError, match="max_age"):
            follower.get(timeout=PATIENCE)


@pytest.mark.fault
def test_side_streams_are_kept_as_the_main_one_is(make_store: MakeStore) -> None:
    """A script that says nothing of replicas makes none that keep less, and reading makes none at all."""
    with NATSCluster(3) as cluster:
        node, script = make_store(cluster.url, replicas=3), make_store(cluster.url)
        node.save_event(event(1), timeout=PATIENCE)
        assert script.load("order-1", timeout=PATIENCE).version == 1
        assert script.consumer("c").dead_letters(timeout=PATIENCE) == []
        assert streams_of(script).keys() == {"events"}
        assert script.save_snapshot(Snapshot(actor_id="order-1", version=1, state={}), timeout=PATIENCE)
        with script.consumer("c").iterate(timeout=PATIENCE) as consumption:
            assert consumption.get(timeout=PATIENCE).sequence == 1
        assert {use: config["num_replicas"] for use, config in streams_of(node).items()} == {
            "events": 3,
            "snapshots": 3,
            "dead_letters": 3,
        }
        assert node.load("order-1", timeout=PATIENCE).snapshot is not None


@pytest.mark.slow
@pytest.mark.fault
def test_a_side_stream_with_fewer_replicas_is_used(make_store: MakeStore) -> None:
    """A script has made it, or the main stream was given more since: neither is a reason to refuse the work."""
    with NATSCluster(3) as cluster:
        node = make_store(cluster.url, replicas=3)
        node.save_event(event(1), timeout=PATIENCE)
        for body in (snapshot_settings(names_of(node), 1), dead_letter_settings(names_of(node))):
            assert "error" not in ask(node, f"STREAM.CREATE.{body['name']}", body)
        assert node.save_snapshot(Snapshot(actor_id="order-1", version=1, state={}), timeout=PATIENCE)
        assert node.load("order-1", timeout=PATIENCE).snapshot is not None
        with node.consumer("c").iterate(timeout=PATIENCE) as consumption:
            assert consumption.get(timeout=PATIENCE).sequence == 1


# -- names that stay apart

names = st.text(min_size=1, max_size=20).filter(lambda text: len(text.encode("utf-8", "ignore")) < 20)


@given(st.tuples(st.none() | names, names), st.tuples(st.none() | names, names))
def test_different_pairs_of_namespace_and_stream_have_nothing_in_common(
    one: tuple[str | None, str], other: tuple[str | None, str]
) -> None:
    try:
        mine, theirs = Names(one[1], one[0]), Names(other[1], other[0])
    except ValueError:  # lone surrogates
        return
    streams = [[names.stream, names.snapshots, names.dead_letters] for names in (mine, theirs)]
    assert not set(streams[0]) & set(streams[1]) or one == other
    assert mine.subject("a") != theirs.subject("a") or one == other
    for name in streams[0]:
        assert name.isascii()
        assert not set(name) & set(" .*>/\\\t\r\n"), "the server takes it"


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_different_actors_have_different_subjects(one: str, other: str) -> None:
    names = Names("s", None)
    try:
        mine, theirs = names.subject(one), names.subject(other)
    except ValueError:
        return
    assert (mine == theirs) is (one == other)
    assert names.actor_id(mine) == one
    assert names.is_subject(mine, one)
    assert names.is_subject(mine, other) is (one == other)
    assert len(mine.split(".")) == 4


ids = st.text(min_size=1, max_size=10) | st.from_regex(r"[ab]?-?[a-c%.*=~/]{1,6}", fullmatch=True)
LONG = ["a-" + "b" * (length - 2) for length in (500, 501)]


@given(st.none() | st.sampled_from(["a", "t.x"]), st.lists(ids | st.sampled_from(LONG), max_size=4), st.data())
def test_the_subjects_of_several_actors_are_known_as_each_is(
    namespace: str | None, actors: list[str], data: st.DataObject
) -> None:
    names = Names("a.b=c", namespace)
    try:
        subjects = [names.subject(one) for one in actors]
    except ValueError:
        return
    plain = [one for one in actors if names.subject(one).endswith(f".{one}") and one not in LONG[1:]]
    assert names.are_subjects([names.subject(one).encode() for one in plain], plain)
    others = data.draw(st.lists(st.sampled_from([*subjects, "a", "a.events.b.b-c"]), max_size=4))
    if names.are_subjects([one.encode() for one in others], actors):
        assert others == subjects


@pytest.mark.parametrize("actors", [["a.b"], ["a-1", "a.b"], ["é-1"], ["a%2E"], ["\ud800"], ["a b"], LONG])
def test_a_subject_made_of_an_id_that_is_not_plain_is_not_that_of_its_actor(actors: list[str]) -> None:
    names = Names("s", None)
    subjects = [f"s.events.{actor_type(one)}.{one}".encode(errors="surrogatepass") for one in actors]
    assert not names.are_subjects(subjects, actors)


PATTERNS = ["order-*", "order-1", "*", ">", "*-1", "o*", "order-1*", "a.*", "order-*.x", "-*", "a-b-*"]


@given(
    st.sampled_from(PATTERNS),
    st.text(alphabet="ord-1*.ab", min_size=1, max_size=8),
)
def test_the_subjects_that_are_asked_for_have_all_that_match(pattern: str, actor_id: str) -> None:
    names = Names("s", None)
    if SubscriptionFilter(actor_pattern=pattern).matches_actor(actor_id):
        wanted, subject = names.wanted(pattern).split("."), names.subject(actor_id).split(".")
        assert wanted == subject or (wanted[-1] in ("*", ">") and wanted[:-1] == subject[: len(wanted) - 1])


def test_stores_with_look_alike_names_share_nothing(make_store: MakeStore, prefix: str) -> None:
    pairs: list[tuple[str | None, str]] = [
        (None, f"{prefix}_b"),
        (prefix, "b"),
        (None, f"{prefix}.b"),
        (None, f"{prefix}=b"),
        (f"{prefix}=b", "c"),
        (prefix, "b=c"),
        (None, f"{prefix}%3Db"),
        (f"{prefix}/b", "c\\d"),
    ]
    stores = [make_store(stream=stream, namespace=namespace) for namespace, stream in pairs]
    for place, store in enumerate(stores):
        store.save_event(event(1, "a-1", place=place))
        store.save_snapshot(Snapshot(actor_id="a-1", version=1, state={"place": place}))
    for place, store in enumerate(stores):
        assert [one.data for one in store.get_events("a-1")] == [{"place": place}]
        snapshot = store.get_latest_snapshot("a-1")
        assert snapshot is not None
        assert snapshot.state == {"place": place}
        assert store.last_sequence() == 1


# -- records that are no events

BAD: dict[str, tuple[str, bytes]] = {
    "no JSON": ("order.order-1", b"{"),
    "nothing": ("order.order-1", b""),
    "no event": ("order.order-1", b'{"a":1}'),
    "no version": (
        "order.order-1",
        b'{"id":"x","eventType":"T","actorId":"order-1","timestamp":"2026-01-01T00:00:00Z"}',
    ),
    "another actor's": (
        "order.order-1",
        b'{"id":"x","eventType":"T","actorId":"order-2","version":2,"timestamp":"2026-01-01T00:00:00Z"}',
    ),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_a_record_that_is_no_event(make_store: MakeStore, server: NATSServer, prefix: str, bad: str) -> None:
    store = make_store()
    store.save_event(event(1))
    tokens, body = BAD[bad]
    put(server, f"{prefix}.events.{tokens}", body)
    put(server, f"{prefix}.events.{tokens}", record(store, 1)[1].replace(b'"version":1', b'"version":3'))

    for read in (lambda: store.get_events("order-1"), lambda: list(store.iter_events("order-1"))):
        with pytest.raises(MalformedRecordError, match="record 2 of") as caught:
            read()
        assert (caught.value.sequence, caught.value.data) == (2, body)
    iterator = store.iter_events("order-1")
    assert next(iterator).version == 1
    reading = store.get_events_with_errors("order-1")
    assert [(one.sequence, one.event.version) for one in reading.events] == [(1, 1), (3, 3)]
    assert [(one.sequence, one.data) for one in reading.malformed] == [(2, body)]
    assert store.get_latest_version("order-1") == 3

    with store.follow() as follower:
        assert follower.get(timeout=PATIENCE).sequence == 1
        with pytest.raises(MalformedRecordError, match="record 2 of"):
            follower.get(timeout=PATIENCE)
        assert follower.sequence == 2
        assert follower.get(timeout=PATIENCE).sequence == 3
    with store.follow() as follower:
        seen = []
        for _ in range(2):
            try:
                seen += [stored.sequence for stored in follower]
            except MalformedRecordError as error:
                seen.append(-error.sequence)
                break
    assert seen == [-2]


@pytest.mark.parametrize("bad", BAD)
def test_a_last_record_that_is_no_event_is_not_guessed_over(
    make_store: MakeStore, server: NATSServer, prefix: str, bad: str
) -> None:
    store = make_store()
    store.save_event(event(1))
    tokens, body = BAD[bad]
    put(server, f"{prefix}.events.{tokens}", body)
    for call in (
        lambda: store.get_latest_version("order-1"),
        lambda: store.save_event(event(9)),
        lambda: store.append("order-1", event(0), expected_version=1),
        lambda: make_store().save_event(event(1)),
    ):
        with pytest.raises(MalformedRecordError, match="record 2 of"):
            call()
    assert store.last_sequence() == 2
    assert len(store.get_events_with_errors("order-1").malformed) == 1
    assert store.save_event(event(1, "order-2")).sequence == 3, "others go on"


def test_pages(make_store: MakeStore) -> None:
    store = make_store()
    for first in range(1, 2_502, 500):
        store.save_events([event(version) for version in range(first, min(first + 500, 2_502))])
    assert [one.version for one in store.get_events("order-1")] == list(range(1, 2_502))
    assert [one.version for one in store.iter_events("order-1", 999, 2_001)] == list(range(999, 2_002))
    large = [event(version, "order-2", pad="x" * 400_000) for version in range(1, 61)]
    for one in large:
        store.save_event(one)
    assert [one.version for one in store.get_events("order-2", timeout=PATIENCE)] == list(range(1, 61))


def test_what_a_server_lacks_that_is_behind_is_read_from_the_leader(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store()
    saved = [store.save_event(event(version)).event for version in range(1, 11)]
    real = jetstream_of(store).ask_page
    for known in (0, 5, 9, 10):
        monkeypatch.setattr(
            jetstream_of(store), "ask_page", lambda *arguments, known=known: Behind(real(*arguments), known)
        )
        assert store.get_events("order-1") == saved
        assert list(store.iter_events("order-1")) == saved


def test_a_moment_is_never_within_a_batch(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, store = make_store(), make_store()
    writer.save_event(event(1, "a-1"))
    writer.save_events([event(1, "b-1"), event(1, "c-1"), event(2, "a-1")])
    for sequence, moment in ((1, 1), (2, 1), (3, 1), (4, 4)):  # as if more were just being stored
        last = jetstream_of(store).next(
            names_of(store).stream, names_of(store).all_events, sequence, Deadline(PATIENCE)
        )

        class Answer:
            forget = staticmethod(lambda: None)

            def __call__(self, _: Deadline, last: Record | None = last) -> Record | None:
                return last

        monkeypatch.setattr(jetstream_of(store), "ask_last", lambda *_, answer=Answer: answer())
        assert store.last_sequence() == moment
        assert [one.sequence for one in store.read_all()] == list(range(1, moment + 1))


def test_more_actors_than_one_answer_names(make_store: MakeStore) -> None:
    store = make_store()
    ids = [f"thing-{n:06}" for n in range(3_000)]
    for first in range(0, 3_000, 1_000):
        store.save_events([event(1, one) for one in ids[first : first + 1_000]])
    assert store.actors() == ids
    assert store.actors("thing-0000*") == ids[:100]
    assert store.actors("other-*") == []


class Listing:
    """Lists names as nats-server does: sorted, so many at a time, counted off from the start as it is at that moment.

    Args:
        names: That are there at first.
        changes: What is added and taken away before each page but the first.
    """

    limit = 4

    def __init__(self, names: Iterable[str], changes: list[tuple[set[str], set[str]]]) -> None:
        self.names = set(names)
        self.steady = set(names)  # there all the time
        self._changes = iter(changes)
        self._asked = 0

    def page(self, body: dict[str, Any]) -> tuple[list[str], dict[str, int]]:
        """Answer a question for a page."""
        self._asked += 1
        assert self._asked < 200, "it ends"
        if self._asked > 1:
            added, gone = next(self._changes, (set(), set()))
            self.names = (self.names | added) - gone
            self.steady -= gone
        first = min(body["offset"], len(self.names))
        return sorted(self.names)[first : first + self.limit], {"limit": self.limit, "total": len(self.names)}


letters = st.sets(st.sampled_from([f"x-{n:02}" for n in range(40)]))


@given(letters, st.lists(st.tuples(letters, letters), max_size=12))
def test_who_is_there_all_the_time_is_listed_whatever_comes_and_goes(
    names: set[str], changes: list[tuple[set[str], set[str]]]
) -> None:
    with JetStreamEventStore("nats://127.0.0.1:1", "s") as store:
        mine, theirs = Listing(names, [(added, set()) for added, _ in changes]), Listing(names, changes)

        def request(subject: str, body: dict[str, Any], *_: object, **__: object) -> dict[str, Any]:
            if subject == "STREAM.INFO.s" and not body:
                config = settings(names_of(store), 1) | {"metadata": {"_nats.level": "4"}}
                return {"config": config, "created": "2026-11-28T12:00:00Z"}
            if subject == "STREAM.INFO.s":
                page, rest = mine.page(body)
                return {"state": {"subjects": {names_of(store).subject(name): 1 for name in page}}, **rest}
            page, rest = theirs.page(body)
            return {"consumers": [consumer(name) for name in page], **rest}

        jetstream_of(store).request = request  # type: ignore[method-assign]
        assert names <= set(store.actors()) <= mine.names
        found = [one.name for one in store.consumers()]
        assert theirs.steady <= set(found)
        assert found == sorted(set(found))


def consumer(name: str) -> dict[str, Any]:
    """What the server says of a consumer."""
    counts = dict.fromkeys(("num_pending", "num_ack_pending", "num_redelivered"), 0)
    place = {"stream_seq": 0}
    return {"name": name, "config": {"durable_name": name}, "delivered": place, "ack_floor": place, **counts}


def test_a_consumer_whose_server_does_not_answer_is_left_out(make_store: MakeStore) -> None:
    store = make_store()
    store.start()
    answers = {
        0: {"consumers": [consumer("a")], "missing": ["b", "c"], "limit": 3, "total": 4},
        2: {"consumers": [consumer("d")], "missing": ["c"], "limit": 3, "total": 4},
    }
    jetstream_of(store).request = lambda _, body, *__: answers[body["offset"]]  # type: ignore[method-assign]
    assert [one.name for one in store.consumers()] == ["a", "d"]


@pytest.mark.parametrize("call", [JetStreamEventStore.actors, JetStreamEventStore.get_events])
def test_a_deadline_is_looked_at_between_records(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, call: Callable[..., object]
) -> None:
    """Not only between questions to the server: one answer may bring thousands."""
    store, writer = make_store(), make_store()
    writer.save_events([event(version, "a-1") for version in range(1, 501)])
    writer.save_events([event(1, f"b-{n}") for n in range(500)])
    read: list[object] = []

    def slowly(read_one: Callable[..., Any]) -> Callable[..., Any]:
        def reading(*args: object) -> Any:
            read.append(args)
            time.sleep(0.01)
            return read_one(*args)

        return reading

    monkeypatch.setattr(names_of(store), "actor_id_of", slowly(names_of(store).actor_id_of))
    monkeypatch.setattr(walk, "decode_stored_run", lambda payloads: list(map(slowly(decode_stored), payloads)))
    monkeypatch.setattr(store._reader, "found", slowly(store._reader.found))
    arguments = ["a-1"] if call is JetStreamEventStore.get_events else []
    with pytest.raises(DeadlineExceededError, match="within"):
        call(store, *arguments, timeout=0.4 * UNIT)
    assert len(read) < 120 * UNIT


# -- snapshots of older versions


def test_a_snapshot_of_an_older_version_has_little_read(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = make_store()
    for first in range(1, 2_001, 500):
        writer.save_events([event(version) for version in range(first, first + 500)])
    store, cold = make_store(), make_store()
    loaded = store.load("order-1")
    writer.save_events([event(version) for version in range(2_001, 2_006)])
    read = [0]

    def counting(payloads: list[bytes], *rest: Any) -> Any:
        read[0] += len(payloads)
        return decode(payloads, *rest)

    decode = walk.decode_stored_run
    monkeypatch.setattr(walk, "decode_stored_run", counting)
    assert store.save_snapshot(Snapshot(actor_id="order-1", version=loaded.version, state={"n": 1}))
    assert read[0] <= 5, "what came since then"
    assert cold.save_snapshot(Snapshot(actor_id="order-1", version=2_003, state={"n": 2}))
    assert read[0] <= 10, "it is near the end"
    assert cold.save_snapshot(Snapshot(actor_id="order-1", version=7, state={})) is False
    assert read[0] <= 10, "there is a later one"
    kept = cold.get_latest_snapshot("order-1")
    assert kept is not None
    assert (kept.version, kept.sequence, kept.state) == (2_003, 2_003, {"n": 2})


def test_a_snapshot_kept_of_another_past_hides_no_event(make_store: MakeStore, prefix: str) -> None:
    store = make_store()
    store.save_events([event(1, "other-1"), *(event(version) for version in range(1, 6))])
    assert store.save_snapshot(Snapshot(actor_id="order-1", version=2, state={}))
    assert "error" not in ask(store, f"STREAM.DELETE.{prefix}")
    restored = make_store()
    restored.save_events([event(version) for version in (1, 4, 5)])
    assert restored.save_snapshot(Snapshot(actor_id="order-1", version=4, state={"n": 4}))
    kept = restored.get_latest_snapshot("order-1")
    assert kept is not None
    assert (kept.version, kept.sequence) == (4, 2)


# -- several snapshots of an actor


def test_a_stream_that_keeps_fewer_snapshots_is_refused(make_store: MakeStore, prefix: str) -> None:
    store, many = make_store(), make_store(snapshots_kept=3)
    store.save_events([event(version) for version in range(1, 6)])
    assert store.save_snapshot(Snapshot(actor_id="order-1", version=1, state={}))
    for call in (
        lambda: many.start(),
        lambda: many.save_snapshot(Snapshot(actor_id="order-1", version=2, state={})),
        lambda: many.load("order-1"),
        lambda: many.get_snapshots("order-1"),
    ):
        with pytest.raises(StreamMismatchError, match="max_msgs_per_subject is 1, and 3 were asked for") as caught:
            call()
        assert f"{prefix}~snapshots" in str(caught.value)
    assert "error" not in ask(store, f"STREAM.DELETE.{prefix}~snapshots")  # nothing is lost
    for version in range(1, 6):
        assert make_store(snapshots_kept=3).save_snapshot(Snapshot(actor_id="order-1", version=version, state={}))
    assert [one.version for one in make_store().get_snapshots("order-1")] == [3, 4, 5], "it has more than was asked for"


def test_of_a_history_of_snapshots_those_of_events_that_are_there_count(
    make_store: MakeStore, server: NATSServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store(snapshots_kept=5)
    store.save_events([event(version) for version in range(1, 6)])
    for version in (1, 2, 4, 5):
        assert store.save_snapshot(Snapshot(actor_id="order-1", version=version, state={"n": version}))
    assert "error" not in ask(store, f"STREAM.DELETE.{prefix}")
    restored = make_store(snapshots_kept=5)
    restored.save_events([event(version) for version in (1, 2, 3)])
    put(server, f"{prefix}~snapshots.order.order-1", b"{}")
    assert [one.version for one in restored.get_snapshots("order-1")] == [1, 2]
    assert flush_logs(PATIENCE)
    assert caplog.text.count("discarded") == 2, "one that is no snapshot, and those of an actor once a burst"
    latest = restored.get_latest_snapshot("order-1")
    assert latest is not None
    assert latest.version == 2
    loaded = restored.load("order-1")
    assert loaded.snapshot == latest
    assert [one.version for one in loaded.events] == [3]
    assert restored.save_snapshot(Snapshot(actor_id="order-1", version=3, state={"n": 3}))
    assert [one.version for one in restored.get_snapshots("order-1")] == [2, 3], "of five records"


def test_snapshots_that_a_server_lacks_are_read_from_the_leader(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(snapshots_kept=3)
    store.save_events([event(version) for version in range(1, 6)])
    for version in (2, 4, 5):
        store.save_snapshot(Snapshot(actor_id="order-1", version=version, state={}))
    real = jetstream_of(store).ask_page
    for known in (0, 1, 2):
        monkeypatch.setattr(
            jetstream_of(store), "ask_page", lambda *arguments, known=known: Behind(real(*arguments), known)
        )
        assert [one.version for one in store.get_snapshots("order-1")] == [2, 4, 5]


def test_a_snapshot_that_only_a_server_has_that_is_behind_is_none_any_more(
    make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(snapshots_kept=2)
    store.save_events([event(version) for version in range(1, 6)])
    real = jetstream_of(store).ask_page
    for version in (2, 4):
        store.save_snapshot(Snapshot(actor_id="order-1", version=version, state={}))
    before = real(f"{store.stream}~snapshots", f"{store.stream}~snapshots.order.order-1", 1, 9, Deadline(PATIENCE))
    store.save_snapshot(Snapshot(actor_id="order-1", version=5, state={}))
    monkeypatch.setattr(jetstream_of(store), "ask_page", lambda *_: before)
    assert [one.version for one in store.get_snapshots("order-1")] == [4, 5]


def test_snapshots_are_returned_by_version_whenever_they_were_saved(
    make_store: MakeStore, server: NATSServer, prefix: str
) -> None:
    """As behind one that was none, when it is not known which are before that."""
    store = make_store(snapshots_kept=3)
    store.save_events([event(version) for version in range(1, 6)])
    store.save_snapshot(Snapshot(actor_id="order-1", version=4, state={}))
    put(server, f"{prefix}~snapshots.order.order-1", b"{}")
    store.save_snapshot(Snapshot(actor_id="order-1", version=2, state={}))
    assert [one.version for one in store.get_snapshots("order-1")] == [2, 4]


def test_loading_with_a_snapshot_takes_few_round_trips(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two if the last record names all events behind the snapshot, which it does for ten of them at least."""
    writer = make_store()
    for version in range(1, 21):
        writer.save_event(event(version))
    for kept, trips in ((3, 3), (12, 2), (16, 2), (20, 1)):
        writer.save_snapshot(Snapshot(actor_id="order-1", version=kept, state={}))
        store = make_store()
        assert store.load("order-2").version == 0  # the settings of the streams are read once
        requests = Requests(store, monkeypatch)
        loaded = store.load("order-1")
        assert [one.version for one in loaded.events] == list(range(kept + 1, 21))
        assert requests.trips == trips


# -- a snapshot ahead of its events


def test_a_snapshot_whose_event_is_gone_is_discarded(
    make_store: MakeStore, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store()
    store.save_events([event(version) for version in range(1, 6)])
    assert store.save_snapshot(Snapshot(actor_id="order-1", version=5, state={"n": 5}))
    for call in (f"STREAM.DELETE.{prefix}",):
        assert "error" not in ask(store, call)
    restored = make_store()  # from a backup, say
    restored.save_events([event(version) for version in range(1, 3)])
    assert restored.get_latest_snapshot("order-1") is None
    assert flush_logs(PATIENCE)
    assert "discarded" in caplog.text
    loaded = restored.load("order-1")
    assert (loaded.snapshot, loaded.version) == (None, 2)
    with pytest.raises(VersionConflictError):
        restored.save_snapshot(Snapshot(actor_id="order-1", version=5, state={"n": 5}))
    assert restored.save_snapshot(Snapshot(actor_id="order-1", version=2, state={"n": 2}))
    assert restored.load("order-1").snapshot is not None


def test_a_snapshot_that_is_none_is_discarded(
    make_store: MakeStore, server: NATSServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store()
    store.save_event(event(1))
    store.save_snapshot(Snapshot(actor_id="order-1", version=1, state={"n": 1}))
    put(server, f"{prefix}~snapshots.order.order-1", b"{}")
    assert store.get_latest_snapshot("order-1") is None
    assert flush_logs(PATIENCE)
    assert "no snapshot" in caplog.text
    assert store.save_snapshot(Snapshot(actor_id="order-1", version=1, state={"n": 1}))
