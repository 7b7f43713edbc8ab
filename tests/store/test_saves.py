"""Saves of which a server with one replica has stored a part: nobody takes it for events, and writers go on behind it.

The room is that of an account. A ballast fills it, and makes room again when it is dropped.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from aether_sync import (
    ANY_VERSION,
    Event,
    Follower,
    JetStreamEventStore,
    MalformedRecordError,
    NATSServer,
    Snapshot,
    StoredEvent,
    StoreUnavailableError,
    UnknownOutcomeError,
    VersionConflictError,
    retry_on_conflict,
)
from aether_sync._codec.encoding import encode_event
from aether_sync._nats.call import single
from aether_sync._runtime.deadline import Deadline
from aether_sync.stores._jetstream.api import JetStream
from aether_sync.stores._jetstream.history import History
from aether_sync.stores._jetstream.messages import Record, command, member_of, new_batch
from aether_sync.stores._jetstream.saves import Place, Verdict, save_of, torn_saves
from aether_sync.stores.doctor.checks import examine
from aether_sync.stores.doctor.findings import Answers
from aether_sync.stores.doctor.questions import Wanted, ask_for_all

from ..support.common import PATIENCE, UNIT, eventually, first_of, run_threads
from ..support.inside import channel_of, names_of
from ..support.shell import run

pytestmark = pytest.mark.fault

ACCOUNT = """
accounts {
  T: { jetstream: { max_file: 200KB }, users: [ { user: t, password: t } ] }
  SYS: { users: [ { user: s, password: s } ] }
}
system_account: SYS
jetstream: enabled
"""
LIMIT = 200 * 1024
EVENT = 2_000  # bytes of padding


def event(version: int = 0, actor_id: str = "a-1", size: int = EVENT, **data: Any) -> Event:
    return Event(event_type="Happened", actor_id=actor_id, version=version, data={"pad": "x" * size, **data})


class Tight:
    """A server whose account has as little room as it is told."""

    def __init__(self) -> None:
        self.server = NATSServer(config=ACCOUNT)
        self.stores: list[JetStreamEventStore] = []

    def start(self) -> None:
        self.server.start()
        self._jetstream = JetStream(channel_of(self.store()))

    def store(self, stream: str = "events") -> JetStreamEventStore:
        """Another node's store."""
        store = JetStreamEventStore(self.server.url, stream, user="t", password="t")
        self.stores.append(store)
        return store

    def api(self, subject: str, **body: Any) -> dict[str, Any]:
        return self._jetstream.request(subject, body, Deadline(PATIENCE))

    def leave(self, room: int) -> None:
        """Fill the account, up to so many bytes."""
        self.api("STREAM.CREATE.ballast", name="ballast", subjects=["ballast"], storage="file")
        left = LIMIT - self.api("INFO")["storage"] - room
        assert left > 0
        channel, data = channel_of(self.stores[0]), b"x" * (left - 100)
        call = channel.request(
            {"ballast"}, lambda inbox: command("ballast", inbox, b"", data), Deadline(PATIENCE), single
        )
        assert b"error" not in call.wait(Deadline(PATIENCE))[0][3]

    def drop(self) -> None:
        """Make room."""
        self.api("STREAM.DELETE.ballast")

    def batch(self, *records: tuple[str, int], batch: bytes = b"") -> None:
        """Lay a batch by hand: the subjects' actors, and how many bytes each has; versions are counted from 1."""
        batch, end = batch or new_batch(len(records)), self.end()
        versions: dict[str, int] = {}
        for number, (actor_id, size) in enumerate(records, 1):
            versions[actor_id] = versions.get(actor_id, 0) + 1
            headers = b"NATS/1.0\r\nNats-Batch-Id: %b\r\nNats-Batch-Sequence: %d\r\n" % (batch, number)
            if versions[actor_id] == 1:
                headers += b"Nats-Expected-Last-Subject-Sequence: 0\r\n"
            if number == len(records):
                headers += b"Nats-Batch-Commit: 1\r\n"
            laid = Event(
                id=f"{actor_id}/{versions[actor_id]}",
                event_type="Laid",
                actor_id=actor_id,
                version=versions[actor_id],
                data={"pad": "x" * size},
            )
            data = encode_event(laid)
            subject = names_of(self.stores[0]).subject(actor_id)
            channel_of(self.stores[0]).write(command(subject, b"", headers + b"\r\n", data))
        eventually(lambda: self.end() > end, "a part of the batch in the stream")
        eventually(self._is_settled, "all of the batch that it stores in the stream")

    def _is_settled(self) -> bool:
        """Whether nothing is being stored any more; the server tells of none of it."""
        count = self.count()
        time.sleep(0.05 * UNIT)
        return self.count() == count

    def end(self) -> int:
        """The last sequence, while nothing is being stored."""
        record = self._jetstream.last("events", "events.events.>", Deadline(PATIENCE))
        return 0 if record is None else record.sequence

    def last(self, actor_id: str) -> int:
        """The sequence of an actor's last record."""
        record = self._jetstream.last("events", names_of(self.stores[0]).subject(actor_id), Deadline(PATIENCE))
        return 0 if record is None else record.sequence

    def count(self) -> int:
        messages: int = self.api("STREAM.INFO.events")["state"]["messages"]
        return messages

    def close(self) -> None:
        for store in self.stores:
            store.close()
        self.server.stop(discard=True)


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tight]:
    monkeypatch.setattr("aether_sync.stores._jetstream.tries._TRY", 0.2 * UNIT)  # of a part, the server says nothing
    tight = Tight()
    try:
        tight.start()
        yield tight
    finally:
        tight.close()


@pytest.fixture
def store(tight: Tight) -> JetStreamEventStore:
    store = tight.store()
    store.save_events([event(1), event(1, "b-1"), event(2)])
    return store


def versions(store: JetStreamEventStore, actor_id: str = "a-1") -> list[int]:
    return [one.version for one in store.get_events(actor_id, timeout=PATIENCE)]


def save_in_vain(store: JetStreamEventStore, *more: Event) -> list[Event]:
    """Save what the account has no room for; a part is stored."""
    events = [event(3), event(4), event(2, "b-1"), event(1, "c-1"), event(2, "c-1"), *more]
    before = store.last_sequence()
    with pytest.raises(StoreUnavailableError, match="does not count"):
        store.save_events(events, timeout=PATIENCE)
    assert store.last_sequence() == before
    return events


def save_in_vain_of(store: JetStreamEventStore, actor_id: str, version: int) -> None:
    with pytest.raises(StoreUnavailableError, match="does not count"):
        store.save_events([event(version + n, actor_id) for n in range(5)], timeout=PATIENCE)


def everything(store: JetStreamEventStore) -> list[StoredEvent]:
    found = [one for actor_id in ("a-1", "b-1") for one in store.get_events_with_errors(actor_id).events]
    return sorted(found, key=lambda one: one.sequence)


def walk(store: JetStreamEventStore, **wanted: Any) -> Iterator[StoredEvent]:
    """Read one event after the other."""
    after = 0
    while page := store.read_all(after, limit=1, **wanted):
        yield from page
        after = page[-1].sequence


READS: dict[str, Callable[[JetStreamEventStore], object]] = {
    "get_events": versions,
    "iter_events": lambda store: [one.version for one in store.iter_events("a-1")],
    "get_events_with_errors": lambda store: [one.event.version for one in store.get_events_with_errors("a-1").events],
    "load": lambda store: [one.version for one in store.load("a-1").events],
    "read_together": lambda store: [one.version for one in store.read_together("a-1", "b-1")["a-1"]],
    "read_all": lambda store: [one.event.version for one in store.read_all() if one.event.actor_id == "a-1"],
    "read_all, filtered": lambda store: [one.event.version for one in store.read_all(actors="a-*")],
    "read_all, page by page": lambda store: [one.event.version for one in walk(store, actors="a-1")],
    "get_events, reversed": lambda store: [one.version for one in store.get_events("a-1", limit=9, reverse=True)][::-1],
    "get_latest_event": lambda store: list(range(1, getattr(store.get_latest_event("a-1"), "version", 0) + 1)),
    "get_latest_version": lambda store: list(range(1, store.get_latest_version("a-1") + 1)),
}


@pytest.mark.parametrize("reads", first_of([list(READS), *([one] for one in READS)]), ids=["all", *READS])
def test_no_reader_takes_a_part_for_events(tight: Tight, store: JetStreamEventStore, reads: list[str]) -> None:
    tight.leave(3 * EVENT)
    count = tight.count()
    save_in_vain(store)
    assert tight.count() - count in {1, 2}, "the server has stored a part"
    for read in reads:
        for reader in (store, tight.store()):
            assert READS[read](reader) == [1, 2], read
            assert versions(reader, "b-1") == [1]
            assert reader.get_latest_version("c-1") == 0


def test_who_wants_to_see_a_part_sees_it_as_no_events(tight: Tight, store: JetStreamEventStore) -> None:
    tight.leave(2 * EVENT)
    save_in_vain(store)
    (malformed,) = tight.store().get_events_with_errors("a-1").malformed
    assert malformed.sequence == 4
    assert isinstance(malformed.error, MalformedRecordError)
    assert "a part only" in str(malformed.error)


def test_writers_go_on_behind_a_part(tight: Tight, store: JetStreamEventStore) -> None:
    tight.leave(4 * EVENT)
    save_in_vain(store)
    tight.drop()
    for node, expected in ((tight.store(), 2), (store, 3), (tight.store(), 4)):
        (stored,) = node.append("a-1", event(size=1), expected_version=expected)
        assert stored.event.version == expected + 1
    assert versions(store) == versions(tight.store()) == [1, 2, 3, 4, 5]
    assert tight.store().append("c-1", event(0, "c-1", 1), expected_version=ANY_VERSION)[0].event.version == 1
    with pytest.raises(VersionConflictError):
        store.append("a-1", event(), expected_version=4)


def test_the_same_save_succeeds_once_there_is_room(tight: Tight, store: JetStreamEventStore) -> None:
    tight.leave(4 * EVENT)
    events = save_in_vain(store)
    tight.drop()
    for duplicate in (False, True):
        stored = store.save_events(events)
        assert {one.duplicate for one in stored} == {duplicate}
    assert versions(tight.store()) == [1, 2, 3, 4]
    assert versions(tight.store(), "c-1") == [1, 2]
    assert tight.store().save_event(events[0]).duplicate


def test_one_event_of_it_can_be_saved_alone(tight: Tight, store: JetStreamEventStore) -> None:
    tight.leave(4 * EVENT)
    events = save_in_vain(store)
    tight.drop()
    assert not tight.store().save_event(events[0]).duplicate
    assert store.save_event(events[0]).duplicate
    assert versions(store) == versions(tight.store()) == [1, 2, 3]


def test_a_save_that_is_known_to_have_no_room_is_not_sent(tight: Tight, store: JetStreamEventStore) -> None:
    tight.leave(4 * EVENT)
    events = save_in_vain(store)
    count = tight.count()
    with pytest.raises(StoreUnavailableError, match=r"account has no room.*bytes are used"):
        store.save_events(events)
    assert tight.count() == count
    store.save_events([event(3, size=1), event(4, size=1)])  # for this there is


@pytest.mark.parametrize("limit", first_of([2, 1, 3, 100]))
def test_pages_of_all_events_pass_over_parts(tight: Tight, store: JetStreamEventStore, limit: int) -> None:
    tight.leave(3 * EVENT)
    save_in_vain(store)
    tight.drop()
    store.append("a-1", event(), expected_version=2)
    store.save_events([event(2, "b-1", 1), event(1, "d-1", 1)])
    for reader in (store, tight.store()):
        for wanted, expected in (
            ({}, [("a-1", 1), ("b-1", 1), ("a-1", 2), ("a-1", 3), ("b-1", 2), ("d-1", 1)]),
            ({"actors": "b-*"}, [("b-1", 1), ("b-1", 2)]),
            ({"actors": "c-1"}, []),
        ):
            after, got = 0, list[tuple[str, int]]()
            while page := reader.read_all(after, limit=limit, **wanted):  # type: ignore[arg-type]
                got += [(one.event.actor_id, one.event.version) for one in page]
                after = page[-1].sequence
            assert got == expected


@pytest.mark.parametrize("near", first_of([True, False]))
def test_the_last_sequence_is_that_of_an_event(
    tight: Tight, store: JetStreamEventStore, near: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not near:  # as if many records of others were between them and the end
        monkeypatch.setattr(History, "_last_before", lambda *_: 0)
    tight.leave(3 * EVENT)
    save_in_vain(store)
    for reader in (store, tight.store()):
        assert tight.end() > 3
        assert reader.last_sequence() == reader.last_sequence(actors="a-*") == 3
        assert reader.last_sequence(actors="a-1") == reader.last_sequence(actors="*-1") == 3
        assert reader.last_sequence(actors="b-*") == 2
        assert reader.last_sequence(actors="c-1") == reader.last_sequence(actors="c-*") == 0


def test_snapshots_are_of_events(tight: Tight, store: JetStreamEventStore) -> None:
    tight.leave(4 * EVENT)
    save_in_vain(store)
    tight.drop()
    node = tight.store()
    with pytest.raises(VersionConflictError):
        node.save_snapshot(Snapshot(actor_id="a-1", version=3, state={}))
    assert node.save_snapshot(Snapshot(actor_id="a-1", version=2, state={"n": 2}))
    loaded = tight.store().load("a-1")
    assert (loaded.version, loaded.events) == (2, [])
    store.append("a-1", event(), expected_version=2)
    loaded = tight.store().load("a-1")
    assert loaded.snapshot is not None
    assert (loaded.version, len(loaded.events)) == (3, 1)


@pytest.mark.slow
def test_two_parts_one_after_the_other(tight: Tight, store: JetStreamEventStore) -> None:
    tight.leave(3 * EVENT)
    save_in_vain(store)
    tight.drop()
    tight.leave(3 * EVENT)
    save_in_vain(tight.store())
    tight.drop()
    node = tight.store()
    assert node.get_latest_version("a-1") == 2
    node.append("a-1", event(), expected_version=2)
    assert versions(tight.store()) == versions(store) == [1, 2, 3]


# -- followers

FOLLOWED = {"some": "a-*", "all": None, "many": "*-1", "one": "a-1"}


def taken(follower: Follower, count: int) -> list[tuple[str, int]]:
    return [(one.event.actor_id, one.event.version) for one in (follower.get(PATIENCE) for _ in range(count))]


@pytest.mark.parametrize("actors", first_of(FOLLOWED.values()), ids=FOLLOWED)
def test_no_follower_is_given_a_part(tight: Tight, store: JetStreamEventStore, actors: str | None) -> None:
    only = actors is not None and actors.startswith("a-")
    with store.follow(actors=actors) as live:
        tight.leave(3 * EVENT)
        save_in_vain(store)
        there = [("a-1", 1), ("a-1", 2)] if only else [("a-1", 1), ("b-1", 1), ("a-1", 2)]
        with tight.store().follow(actors=actors) as late:
            for follower in (live, late):
                assert taken(follower, len(there)) == there
                eventually(lambda follower=follower: not follower.get_batch(9, timeout=0) and follower.is_caught_up)
                assert follower.sequence == (tight.end() if follower is live else 3)  # it has called the rest off
            tight.drop()
            store.append("a-1", event(), expected_version=2)
            for follower in (live, late):
                assert taken(follower, 1) == [("a-1", 3)]
                eventually(lambda follower=follower: not follower.get_batch(9, timeout=0) and follower.is_caught_up)
                assert follower.sequence == tight.end()
    with tight.store().follow(actors=actors) as later:
        assert taken(later, len(there) + 1) == [*there, ("a-1", 3)]
        assert later.sequence == tight.end()


@pytest.mark.parametrize("actors", first_of(["e-*", None, "d-1"]))
def test_a_follower_is_given_what_the_server_has_finished(
    tight: Tight, store: JetStreamEventStore, actors: str | None
) -> None:
    tight.leave(4 * EVENT)
    with store.follow(after=3, actors=actors) as follower:
        tight.batch(*[("d-1", EVENT), ("e-1", EVENT)] * 3)
        eventually(lambda: not follower.get_batch(9, timeout=0.01) and follower.is_caught_up)
        assert follower.sequence == (4 if actors == "e-*" else 3)
        tight.drop()
        tight.server.restart()
        both = [(actor_id, version) for version in (1, 2, 3) for actor_id in ("d-1", "e-1")]
        wanted = [one for one in both if actors is None or one[0][0] == actors[0]]
        assert taken(follower, len(wanted)) == wanted


@pytest.mark.parametrize("actors", first_of(FOLLOWED.values()), ids=FOLLOWED)
def test_a_follower_may_begin_amid_a_save(tight: Tight, store: JetStreamEventStore, actors: str | None) -> None:
    store.save_events([event(version, actor, 1) for version in range(3, 13) for actor in ("a-1", "b-1")])
    tight.leave(3 * EVENT)
    save_in_vain_of(store, "a-1", 13)
    tight.drop()
    end = tight.end()
    store.append("a-1", event(), expected_version=12)
    expected = [(one.event.actor_id, one.sequence) for one in everything(store)]
    for after in range(end + 1):
        wanted = [one for one in expected if one[1] > after and (actors in {None, "*-1"} or one[0] == "a-1")]
        with tight.store().follow(after=after, actors=actors) as follower:
            assert [(one.event.actor_id, one.sequence) for one in map(follower.get, [PATIENCE] * len(wanted))] == wanted


# -- consumers


@pytest.mark.slow
def test_no_consumption_delivers_a_part(tight: Tight, store: JetStreamEventStore) -> None:
    node = tight.store()
    with node.consumer("all", ack_wait=1.0).iterate() as some, node.consumer("open", ack_wait=1.0).iterate() as others:
        tight.leave(4 * EVENT)
        save_in_vain(store)
        for consumption in (some, others):
            there = [consumption.get(PATIENCE) for _ in range(3)]
            assert [one.sequence for one in there] == [1, 2, 3]
            for one in there:
                one.ack()
            again = consumption.get_batch(9, timeout=2.0)  # what was settled too late comes once more
            assert {one.sequence for one in again} <= {1, 2, 3}
            for one in again:
                one.ack()
        tight.drop()
        store.append("a-1", event(), expected_version=2)
        for consumption in (some, others):
            delivery = consumption.get(PATIENCE)
            assert (delivery.event.actor_id, delivery.event.version, delivery.attempt) == ("a-1", 3, 1)
            delivery.ack(confirm=True)
        for consumer in ("all", "open"):
            node.consumer(consumer).wait_for(tight.end(), timeout=PATIENCE)
    assert node.consumer("all").dead_letters() == []


def test_a_runner_handles_what_the_server_has_finished(tight: Tight, store: JetStreamEventStore) -> None:
    handled: list[tuple[str, int]] = []
    node = tight.store()
    tight.leave(4 * EVENT)
    with node.consumer("all", ack_wait=1.0).run(lambda one: handled.append((one.event.actor_id, one.event.version))):
        eventually(lambda: len(handled) == 3)
        tight.batch(*[("d-1", EVENT), ("e-1", EVENT)] * 3)
        node.consumer("all").wait_for(3, timeout=PATIENCE)
        tight.drop()
        tight.server.restart()
        eventually(lambda: len(handled) >= 9, "the rest")
    assert sorted(set(handled)) == sorted(
        [("a-1", 1), ("a-1", 2), ("b-1", 1), *((one, version) for one in ("d-1", "e-1") for version in (1, 2, 3))]
    )


@pytest.mark.slow
def test_many_saves_of_several_actors_are_consumed(tight: Tight, store: JetStreamEventStore) -> None:
    for version in range(1, 101):
        store.save_events([event(version, "d-1", 1), event(version, "e-1", 1)])
    with tight.store().consumer("some", actors="e-*").iterate() as consumption:
        found = [consumption.get(PATIENCE) for _ in range(100)]
        assert [one.event.version for one in found] == list(range(1, 101))


# -- what the server may still finish


def test_a_part_is_finished_by_a_server_that_starts_again(tight: Tight, store: JetStreamEventStore) -> None:
    tight.leave(4 * EVENT)
    tight.batch(*[("d-1", EVENT), ("e-1", EVENT)] * 3)
    assert versions(store, "d-1") == []
    assert store.get_latest_version("e-1") == 0
    tight.drop()
    tight.server.restart()
    for node in (store, tight.store()):
        assert versions(node, "d-1") == versions(node, "e-1") == [1, 2, 3]


def test_but_not_when_somebody_has_stored_something_behind_it(tight: Tight, store: JetStreamEventStore) -> None:
    tight.leave(4 * EVENT)
    tight.batch(*[("d-1", EVENT), ("e-1", EVENT)] * 3)
    (stored,) = store.append("d-1", event(0, "d-1", 1), expected_version=0)
    tight.drop()
    tight.server.restart()
    for node in (store, tight.store()):
        assert [one.id for one in node.get_events("d-1", timeout=PATIENCE)] == [stored.event.id]
        assert versions(node, "e-1") == []


def test_a_gap_that_a_server_has_left_is_noticed(tight: Tight, store: JetStreamEventStore) -> None:
    tight.leave(3 * EVENT)
    tight.batch(("d-1", EVENT), ("e-1", EVENT), ("d-1", EVENT), ("e-1", 1))
    eventually(lambda: tight.count() == 3 + 2, "what there is room for")
    tight.server.restart()
    if tight.count() == 3 + 4:  # it has not yet known how little room there is
        assert versions(store, "d-1") == versions(store, "e-1") == [1, 2]
        return
    assert tight.count() == 3 + 3, "for the last one there is room"
    for node in (store, tight.store()):
        assert versions(node, "d-1") == versions(node, "e-1") == []
        assert node.get_latest_version("e-1") == 0
    for expected, node in enumerate([tight.store(), store]):
        node.append("e-1", event(0, "e-1", 1), expected_version=expected)
    assert versions(store, "e-1") == versions(tight.store(), "e-1") == [1, 2]


def test_without_room_to_call_it_off_it_is_said_to_be_unknown(tight: Tight, store: JetStreamEventStore) -> None:
    with NATSServer(config="jetstream { max_file_store: 100KB }") as server, JetStreamEventStore(server.url) as store:
        store.save_event(event(1, "f-1", 90_000))
        events = [event(version, size=1_000) for version in range(1, 21)]
        for node in (store, JetStreamEventStore(store.connection)):
            with pytest.raises(UnknownOutcomeError, match="has stored a part") as caught:
                node.save_events(events, timeout=PATIENCE)
            assert [one.id for one in caught.value.events] == [one.id for one in events]
            with pytest.raises(StoreUnavailableError):  # another's is not stored
                node.save_event(event(1))
            assert versions(node) == []


# -- batches of others


@pytest.mark.parametrize("batch", first_of([b"of-another-client", b"0" * 32 + b"-7", b""]))
def test_batches_of_others_are_whole_or_not(tight: Tight, store: JetStreamEventStore, batch: bytes) -> None:
    tight.batch(*[("d-1", 10), ("e-1", 10), ("f-1", 10)] * 3, batch=batch)
    for actor_id in ("d-1", "e-1", "f-1"):
        assert versions(store, actor_id) == [1, 2, 3]
        assert tight.store().get_latest_version(actor_id) == 3
    tight.leave(3 * EVENT)
    tight.batch(*[("g-1", EVENT), ("h-1", EVENT)] * 3, batch=batch and batch + b"2")
    assert tight.count() > 13
    for actor_id in ("g-1", "h-1"):
        assert versions(store, actor_id) == []
        assert tight.store().get_latest_version(actor_id) == 0


def test_who_knows_nothing_of_parts_makes_none_whole(tight: Tight, store: JetStreamEventStore) -> None:
    tight.leave(3 * EVENT)
    tight.batch(*[("d-1", EVENT), ("e-1", EVENT)] * 3)
    tight.drop()
    last = tight.end()
    actor_id = next(one for one in ("d-1", "e-1") if last == tight.last(one))
    headers = b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: %d\r\nNats-Msg-Id: x\r\n\r\n" % last
    data = encode_event(event(9, actor_id, size=1))
    channel_of(store).write(command(names_of(store).subject(actor_id), b"", headers, data))
    eventually(lambda: tight.end() > last, "the record of another client")
    for one in (store, tight.store()):
        assert versions(one, actor_id) == [9]
        with one.follow(actors=actor_id) as follower:
            assert taken(follower, 1) == [(actor_id, 9)]


# -- the price


def test_who_reads_a_history_of_whole_saves_asks_once(
    tight: Tight, store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in range(2, 22):
        store.save_events([event(version + 1, size=1), event(version, "b-1", 1)])
    asked: list[int] = []
    ask_one = JetStream.ask_one

    def noted(self: JetStream, stream: str, sequence: int, deadline: Deadline) -> object:
        asked.append(sequence)
        return ask_one(self, stream, sequence, deadline)

    monkeypatch.setattr(JetStream, "ask_one", noted)
    assert versions(store) == list(range(1, 23))
    assert asked == []  # it has saved them itself
    node = tight.store()
    assert versions(node) == list(range(1, 23))
    assert len(asked) == 1
    assert versions(node) == list(range(1, 23))
    assert len(asked) == 1


# -- the example of the guide


@pytest.mark.parametrize("size", first_of(range(900, 1_300, 100)))
def test_transfers_until_there_is_no_room_leave_a_sum_of_zero(tight: Tight, size: int) -> None:
    @retry_on_conflict(attempts=None, timeout=PATIENCE)
    def transfer(store: JetStreamEventStore, source: str, target: str, amount: int) -> None:
        moves = [(store.load(source), -amount), (store.load(target), amount)]
        store.save_events(
            Event(
                event_type="Moved",
                actor_id=one.actor_id,
                version=one.version + 1,
                data={"amount": change, "note": "x" * size},
            )
            for one, change in moves
        )

    store = tight.store()
    with pytest.raises(StoreUnavailableError):
        for _ in range(1_000):
            transfer(store, "account-1", "account-2", 5)
    for node in (store, tight.store()):
        found = node.read_together("account-1", "account-2")
        assert sum(one.data["amount"] for events in found.values() for one in events if one.data) == 0


@pytest.mark.slow
@pytest.mark.concurrent
def test_transfers_of_several_threads_while_room_comes_and_goes(tight: Tight) -> None:
    accounts = [f"account-{n}" for n in range(4)]
    reader = tight.store()
    reader.save_event(event(1, "other-1", 1))
    tight.leave(30 * EVENT)
    outcomes: list[str] = []
    rounds = 6
    over = threading.Event()

    def transfer_on(store: JetStreamEventStore, numbers: random.Random) -> None:
        @retry_on_conflict(attempts=None, timeout=PATIENCE)
        def transfer(source: str, target: str) -> None:
            moves = [(store.load(source, timeout=PATIENCE), -1), (store.load(target, timeout=PATIENCE), 1)]
            size = numbers.randrange(50, EVENT)
            events = [event(one.version + 1, one.actor_id, size, amount=change) for one, change in moves]
            store.save_events(events, timeout=PATIENCE)

        while not over.is_set():
            try:
                transfer(*numbers.sample(accounts, 2))
                outcomes.append("saved")
            except (StoreUnavailableError, UnknownOutcomeError) as error:
                outcomes.append(type(error).__name__)
                over.wait(0.01)

    def make_room() -> None:
        for _ in range(rounds):
            before = outcomes.count("StoreUnavailableError")
            eventually(lambda before=before: outcomes.count("StoreUnavailableError") > before, "a refusal")
            tight.drop()
            room = LIMIT - tight.api("INFO")["storage"]
            if room > 2 * EVENT:
                tight.leave(min(room - EVENT // 2, 3 * EVENT))
        over.set()

    works = [partial(transfer_on, tight.store(), random.Random(n)) for n in range(4)]
    with reader.follow(actors="account-*") as follower:
        for thread in run_threads(*works, make_room):
            thread.join(PATIENCE * rounds)
        over.set()
        found = tight.store().read_together(*accounts, timeout=PATIENCE)
        count = sum(map(len, found.values()))
        followed = [follower.get(PATIENCE) for _ in range(count)]
        assert follower.get_batch(9, timeout=0.1) == []
    assert sum(one.data["amount"] for events in found.values() for one in events if one.data) == 0
    for events in found.values():
        assert [one.version for one in events] == list(range(1, len(events) + 1))
    assert sorted(one.event.id for one in followed) == sorted(one.id for events in found.values() for one in events)
    assert outcomes.count("saved") * 2 <= count


# -- export


@pytest.mark.slow
@pytest.mark.parametrize("actors", [[], ["--actors", "a-*"]])
def test_export_counts_without_parts(tight: Tight, store: JetStreamEventStore, actors: list[str]) -> None:
    url = tight.server.url.replace("//", "//t:t@")
    tight.leave(3 * EVENT)
    save_in_vain(store)
    for version in (3, 4):
        done = run("export", "--url", url, *actors)
        assert done.returncode == 0, done.stderr
        assert "the server counts as many" in done.stderr
        assert done.stdout.count("\n") == version - 1 + (not actors)
        if version == 3:
            tight.drop()
            store.append("a-1", event(), expected_version=2)
    assert "of saves that are not whole left out" in done.stderr


# -- the doctor


def test_the_doctor_says_where_parts_are(tight: Tight, store: JetStreamEventStore) -> None:
    def ask() -> Answers:
        return ask_for_all(store.connection, Wanted(names_of(store), 1, "aether", None, None), PATIENCE)

    def found() -> list[tuple[int, int, bool]]:
        return [tuple(one) for one in ask().torn]

    assert found() == []
    tight.leave(3 * EVENT)
    save_in_vain(store)
    end = tight.end()
    assert found() == [(4, end, True)]
    tight.drop()
    store.append("a-1", event(), expected_version=2)
    assert found() == [(4, end, False)]
    answers = ask()
    assert answers.looked_through == end + 1
    assert any("4 to" in finding.message for finding in examine(answers))


@pytest.mark.parametrize(
    ("records", "torn"),
    [
        ("-- a1 a2 a3! -- b1 b2!", []),
        ("a2 a3! -- b1 b2!", []),
        ("a1 a2 -- b1 b2!", [(1, 2, False)]),
        ("a1 b1 b2! c1", [(1, 1, False), (4, 4, True)]),
        ("a1 a2 a4! --", [(1, 3, False)]),
        ("-- a1 a3 a4!", [(2, 4, False)]),
        ("-- a2 a3! --", [(2, 3, False)]),
        ("a1 a2", [(1, 2, True)]),
        ("", []),
    ],
)
def test_parts_are_found_among_all_records(records: str, torn: list[tuple[int, int, bool]]) -> None:
    def record(sequence: int, what: str) -> Record:
        headers = b"NATS/1.0\r\n"
        if what != "--":
            headers += f"Nats-Batch-Id: {what[0]}\r\nNats-Batch-Sequence: {what[1]}\r\n".encode()
        if what.endswith("!"):
            headers += b"Nats-Batch-Commit: 1\r\n"
        return Record(sequence, "s", headers + b"\r\n", b"")

    assert list(torn_saves(record(n, what) for n, what in enumerate(records.split(), 1))) == torn


# -- what headers tell


def test_the_place_in_a_batch() -> None:
    def record(sequence: int, lines: bytes) -> Record:
        return Record(sequence, "s", b"NATS/1.0\r\n" + lines + b"\r\n", b"")

    ours = new_batch(7)
    place = b"Nats-Batch-Id: %b\r\nNats-Batch-Sequence: 3\r\n" % ours
    assert save_of(record(12, place)) == Place(ours, 10)
    member = member_of(record(12, place).headers)
    assert member is not None
    assert (member.size, member.commits) == (7, False)
    member = record(12, place + b"Nats-Batch-Commit: 1\r\n").member
    assert member is not None
    assert (member.size, member.commits) == (3, True)
    member = record(12, b"Nats-Batch-Id:x\r\nNats-Batch-Sequence:3\r\nNats-Batch-Commit:1\r\n").member
    assert member is not None
    assert (member.batch, member.size, member.commits) == (b"x", 3, True)
    for alone in (b"Nats-Msg-Id: x\r\n", b"Nats-Batch-Id: x\r\n", b"Nats-Batch-Sequence: 1\r\n"):
        assert save_of(record(12, alone)) is None
        assert record(12, alone).commits
    assert record(12, b"Aether-Behind: 5\r\n").behind == 5
    assert record(12, b"").behind is None
    assert {Verdict.WHOLE, Verdict.TORN, Verdict.OPEN} == set(Verdict)
