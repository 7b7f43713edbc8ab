"""What the active instance of a projection announces on a bus, and who waits for it elsewhere without asking."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from typing import Any

import pytest

from aether_sync import (
    ANY_VERSION,
    PROJECTION_ADVANCED,
    Event,
    EventBus,
    InMemoryEventStore,
    JetStreamEventStore,
    NATSEventBus,
    NATSServer,
    Operation,
    Projection,
    ProjectionAdvanced,
    SubscriptionFilter,
    instrument,
)
from aether_sync._runtime.threads import NoThreadError
from aether_sync.stores.projections import announcing, projector
from aether_sync.stores.projections import projection as projection_module
from aether_sync.stores.projections.announcing import Announcements, Announcer, Broadcaster
from aether_sync.stores.projections.progress import Progress

from ..support.common import PATIENCE, eventually
from ..support.places import Place, SQLitePlace

ADVANCED = SubscriptionFilter(event_types={PROJECTION_ADVANCED})


def put(store: Any) -> int:
    event = Event(event_type="Paid", actor_id="a", data={"amount": 1})
    (stored,) = store.append("a", event, expected_version=ANY_VERSION)
    sequence: int = stored.sequence
    return sequence


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of databases by projections that wait, a name for each question."""
    asked: list[str] = []
    original = Projection._ask

    def ask(self: Projection) -> Any:
        asked.append(self.name)
        return original(self)

    monkeypatch.setattr(Projection, "_ask", ask)
    return asked


class Node:
    """A store with a bus of its own, as a process has them, and a projection that is not started."""

    def __init__(self, url: str, prefix: str, place: Place) -> None:
        self.prefix = f"{prefix}-bus"
        self.bus = NATSEventBus(url, prefix=self.prefix)
        self.store = JetStreamEventStore(url, prefix, namespace="shop", bus=self.bus)
        self.projection = self.store.project("balances", place.adapting(place.apply), into=place.make())

    def close(self) -> None:
        self.store.close()
        self.bus.close()


@pytest.fixture
def make_node(server: NATSServer, prefix: str) -> Iterator[Callable[[Place], Node]]:
    made: list[Node] = []

    def make(place: Place) -> Node:
        made.append(Node(server.url, prefix, place))
        return made[-1]

    yield make
    for node in made:
        node.close()


MakeNode = Callable[[Place], Node]


def hears(node: Node) -> bool:
    """Let a node wait for a new event, and return whether it is told from then on."""
    node.projection.wait_for(put(node.store), PATIENCE)
    return node.projection._is_told()


class TestWaitingElsewhere:
    def test_it_is_told_and_asks_nothing(
        self, make_node: MakeNode, sqlite_place: SQLitePlace, questions: list[str]
    ) -> None:
        there, here = make_node(sqlite_place), make_node(sqlite_place)
        there.projection.start()
        eventually(lambda: hears(here))
        questions.clear()
        for _ in range(50):
            here.projection.wait_for(put(here.store), PATIENCE)
        assert not questions
        assert not here.projection.is_active
        assert len(sqlite_place.applied) >= 50

    def test_many_threads_are_told(self, make_node: MakeNode, sqlite_place: SQLitePlace, questions: list[str]) -> None:
        there, here = make_node(sqlite_place), make_node(sqlite_place)
        there.projection.start()
        eventually(lambda: hears(here))
        questions.clear()
        sequences = [put(here.store) for _ in range(8)]
        threads = [threading.Thread(target=here.projection.wait_for, args=(one, PATIENCE)) for one in sequences]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert not questions
        assert here.projection._progress.sequence == sequences[-1]

    def test_what_another_database_has_is_not_believed(self, make_node: MakeNode, tmp_path: Any) -> None:
        """Each node has a file of its own, with a projection of the same name."""
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        places = SQLitePlace(tmp_path / "a"), SQLitePlace(tmp_path / "b")
        quick, slow, waiting = make_node(places[0]), make_node(places[1]), make_node(places[1])
        slow.projection.start()
        eventually(lambda: hears(waiting))
        with slow.store.project("held", lambda db, stored: None, into=places[1].make()):
            slow.projection.close()
            quick.projection.start()
            last = put(quick.store)
            quick.projection.wait_for(last, PATIENCE)
            eventually(lambda: quick.projection._projector and len(waiting.projection._progress._heard) > 1)
            with pytest.raises(TimeoutError):
                waiting.projection.wait_for(last, 0.3)

    def test_another_owner_is_believed_when_it_was_found(
        self, make_node: MakeNode, sqlite_place: SQLitePlace, questions: list[str]
    ) -> None:
        first, second, here = (make_node(sqlite_place) for _ in range(3))
        first.projection.start()
        eventually(lambda: hears(here))
        first.projection.close()
        second.projection.start()
        eventually(lambda: second.projection.is_active)
        eventually(lambda: hears(here))
        questions.clear()
        here.projection.wait_for(put(here.store), PATIENCE)
        assert not questions

    def test_a_missed_announcement_is_asked_for(
        self, make_node: MakeNode, sqlite_place: SQLitePlace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(projection_module, "_SILENCE", 0.2)
        there, here = make_node(sqlite_place), make_node(sqlite_place)
        there.projection.start()
        eventually(lambda: hears(here))
        there.store.set_broadcaster(None)
        here.projection.wait_for(put(here.store), PATIENCE)
        assert not here.projection._is_told()
        there.store.set_broadcaster(there.bus)
        eventually(lambda: hears(here))

    def test_a_bus_that_is_closed_or_exchanged(self, make_node: MakeNode, sqlite_place: SQLitePlace) -> None:
        there, here = make_node(sqlite_place), make_node(sqlite_place)
        there.projection.start()
        eventually(lambda: hears(here))
        here.bus.close()
        assert not hears(here)
        with NATSEventBus(here.store.connection, prefix=here.prefix) as other:
            here.store.set_broadcaster(other)
            eventually(lambda: hears(here))
            here.store.set_broadcaster(None)
            assert not hears(here)

    def test_a_server_that_was_away(self, own_server: NATSServer, prefix: str, sqlite_place: SQLitePlace) -> None:
        there, here = Node(own_server.url, prefix, sqlite_place), Node(own_server.url, prefix, sqlite_place)
        with closing(there), closing(here):
            there.projection.start()
            eventually(lambda: hears(here))
            own_server.restart()
            eventually(lambda: here.bus.is_connected and there.bus.is_connected)
            eventually(lambda: hears(here))

    def test_the_thread_ends_with_the_store(self, make_node: MakeNode, sqlite_place: SQLitePlace) -> None:
        there, here = make_node(sqlite_place), make_node(sqlite_place)
        there.projection.start()
        eventually(lambda: hears(here))
        assert _listening()
        here.store.close()
        assert not _listening()
        assert not here.bus.closed


def _listening() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name == "aether-announcements"]


class TestWhatIsPublished:
    def test_everybody_may_subscribe_to_it(self, sqlite_place: SQLitePlace) -> None:
        bus = EventBus()
        with InMemoryEventStore(namespace="shop", bus=bus) as store, bus.subscribe("shop", filter=ADVANCED) as advances:
            with store.project("balances", sqlite_place.apply, into=sqlite_place.make()):
                last = put(store)
                told = advances.get(PATIENCE).data_as(ProjectionAdvanced)
            assert (told.projection, told.sequence, told.stream) == ("balances", last, "shop")
        bus.close()

    def test_traces_have_none_of_it(self, sqlite_place: SQLitePlace) -> None:
        seen: list[Operation] = []

        def observer(operation: Operation) -> Any:
            seen.append(operation)
            return nullcontext()

        bus = EventBus()
        with InMemoryEventStore(namespace="shop", bus=bus) as store, bus.subscribe("shop", filter=ADVANCED) as advances:
            elsewhere = store.project("balances", sqlite_place.apply, into=sqlite_place.make())
            take_off = instrument(observer)
            try:
                with store.project("balances", sqlite_place.apply, into=sqlite_place.make()):
                    elsewhere.wait_for(put(store), PATIENCE)
                    eventually(lambda: advances.stats().pending)
            finally:
                take_off()
            published = [event.event_type for one in seen for event in one.events]
            assert "EventStored" in published
            assert PROJECTION_ADVANCED not in published
        bus.close()

    def test_a_rebuilt_projection_announces_under_another_word(self, sqlite_place: SQLitePlace) -> None:
        bus = EventBus()
        with InMemoryEventStore(namespace="shop", bus=bus) as store, bus.subscribe("shop", filter=ADVANCED) as advances:
            with store.project("balances", sqlite_place.apply, into=sqlite_place.make()) as projection:
                projection.wait_for(put(store), PATIENCE)
                before = advances.get(PATIENCE).data_as(ProjectionAdvanced)
                projection.rebuild(["applied", "balances"])
                projection.wait_for(put(store), PATIENCE)
                after = advances.get(PATIENCE).data_as(ProjectionAdvanced)
            assert (before.sequence, after.sequence) == (1, 2)
            assert before.owner != after.owner
        bus.close()

    def test_a_bus_without_a_server_is_not_filled(self, sqlite_place: SQLitePlace, free_port: int) -> None:
        bus = NATSEventBus(f"nats://127.0.0.1:{free_port}", connect="background")
        with InMemoryEventStore(namespace="shop") as store:
            announcements = Announcements()
            announcements.use(Broadcaster(bus, "shop"))
            with store.project("balances", sqlite_place.apply, into=sqlite_place.make()):
                for sequence in range(100):
                    announcements.publish("balances", "shop", sequence, "x")
            assert bus.metrics().outbox_events <= 1
        bus.close(timeout=0)


class TestHowOften:
    def test_at_most_five_hundred_a_second_and_always_the_last(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ticks = itertools.count()
        monkeypatch.setattr(announcing, "monotonic", lambda: next(ticks) / 10_000)
        bus = EventBus()
        announcements = Announcements()
        announcements.use(Broadcaster(bus, "shop"))
        announcer = Announcer(announcements, "p", "s", "me")
        with bus.subscribe("shop") as published:
            for sequence in range(1, 1_001):  # within a tenth of a second
                announcer.tell(sequence)
            assert 59 <= published.stats().pending <= 62  # ten at once, and fifty that make their pause
            assert announcer.announce() <= 0.002
            announcer.announce(is_end=True)
            assert announcer.announce() > 1
            told = [event.data_as(ProjectionAdvanced).sequence for event in published.get_batch(1_000, 0)]
        assert told[0] == 1
        assert told[-1] == 1_000
        assert told == sorted(set(told))
        bus.close()

    def test_the_last_of_a_burst_comes_by_itself(
        self, sqlite_place: SQLitePlace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(projector, "_BEAT", PATIENCE)
        bus = EventBus()
        with (
            InMemoryEventStore(namespace="shop", bus=bus) as store,
            bus.subscribe("shop", filter=ADVANCED) as advances,
            store.project("balances", sqlite_place.apply, into=sqlite_place.make(), batch=1),
        ):
            last = [put(store) for _ in range(30)][-1]
            while advances.get(PATIENCE / 2).data_as(ProjectionAdvanced).sequence != last:
                pass
        bus.close()


def test_without_a_thread_it_is_tried_again(
    make_node: MakeNode, sqlite_place: SQLitePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise NoThreadError("there is none", is_passing=True)

    monkeypatch.setattr(announcing, "_AGAIN", 0.1)
    there, here = make_node(sqlite_place), make_node(sqlite_place)
    there.projection.start()
    with monkeypatch.context() as patch:
        patch.setattr(announcing, "start", refuse)
        here.projection.wait_for(put(here.store), PATIENCE)
        assert not _listening()
    eventually(lambda: hears(here))


class TestProgress:
    def test_who_owns_the_row_is_believed(self) -> None:
        progress = Progress("p", "s")
        progress.hear("other", 9)
        progress.hear("mine", 5)
        assert (progress.sequence, progress.is_announced) == (-1, False)
        progress.tell_of_row("mine", 3)
        assert (progress.sequence, progress.is_announced) == (5, True)
        progress.hear("other", 10)
        assert progress.sequence == 5
        progress.hear("mine", 6)
        progress.hear("mine", 4)
        assert progress.sequence == 6
        progress.distrust()
        assert not progress.is_announced

    def test_owners_elsewhere_are_forgotten(self) -> None:
        progress = Progress("p", "s")
        progress.tell_of_row("mine", 1)
        for n in range(1_000):
            progress.hear(f"other-{n}", n)
        progress.hear("mine", 2)
        assert progress.sequence == 2
        assert len(progress._heard) <= 101

    def test_other_projections_and_nonsense_are_passed_over(self) -> None:
        announcements, progress = Announcements(), Progress("p", "s")
        progress.tell_of_row("mine", 1)
        announcements.use(Broadcaster(EventBus(), "shop"))
        announcements.listen(progress)
        told = {"projection": "p", "stream": "s", "sequence": 2, "owner": "mine"}
        for change in ({"projection": "q"}, {"stream": "t"}, {"sequence": "2"}, {"owner": None}):
            announcements.hear(Event(event_type=PROJECTION_ADVANCED, actor_id="p", data={**told, **change}))
        assert progress.sequence == 1
        announcements.hear(Event(event_type=PROJECTION_ADVANCED, actor_id="p", data=told))
        assert progress.sequence == 2
        announcements.use(None)
