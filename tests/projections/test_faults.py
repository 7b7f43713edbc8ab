"""What goes wrong around a projection: its database, another instance, and what is called in the wrong place."""

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from aether_sync import (
    ANY_VERSION,
    DBAPI,
    DeadlineExceededError,
    Event,
    InMemoryEventStore,
    InvalidOptionError,
    MalformedRecordError,
    ProjectionStoppedError,
    ProjectionUnavailableError,
    SQLite,
    StoreClosedError,
    StoredEvent,
    UnsupportedError,
    WrongThreadError,
)
from aether_sync.stores.projections import projector
from aether_sync.stores.projections.chunks import Chunk, ChunkReader

from ..support.common import PATIENCE, eventually
from ..support.places import Place, PostgresPlace, SQLitePlace
from ..support.stores import put as put_bytes


@pytest.fixture
def store() -> Iterator[InMemoryEventStore]:
    with InMemoryEventStore() as store:
        yield store


def put(store: InMemoryEventStore, count: int = 1) -> int:
    for _ in range(count):
        event = Event(event_type="Paid", actor_id="a", data={"amount": 1})
        (stored,) = store.append("a", event, expected_version=ANY_VERSION)
    return stored.sequence


class TestTheDatabase:
    def test_connections_that_are_ended_lose_and_repeat_nothing(
        self, store: InMemoryEventStore, postgres_port: str
    ) -> None:
        place = PostgresPlace(postgres_port)
        ended: list[int] = []

        def apply(db: Any, stored: StoredEvent) -> None:
            place.apply(db, stored)
            if stored.sequence % 7 == 0 and stored.sequence not in ended:
                ended.append(stored.sequence)
                place.query("SELECT pg_terminate_backend(?)", db.connection.info.backend_pid)

        with store.project("p", place.adapting(apply), into=place.make(), batch=5) as projection:
            projection.wait_for(put(store, 30), PATIENCE)
            assert projection.health()
        assert place.applied == [*range(1, 31)]

    def test_a_connection_that_ends_at_the_commit(
        self, store: InMemoryEventStore, postgres_port: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(projector, "_LONGEST_PAUSE", 0.1)
        place = PostgresPlace(postgres_port)
        broken: list[str] = []

        class Breaking(psycopg.Connection[Any]):
            def commit(self) -> None:
                if self.info.transaction_status and len(broken) < 6:
                    broken.append("after" if len(broken) % 2 else "before")
                    if broken[-1] == "after":
                        super().commit()
                    self.close()
                    raise psycopg.OperationalError("lost")
                super().commit()

        database = DBAPI(lambda: Breaking.connect(place.conninfo), driver=psycopg)
        put(store, 20)
        with store.project("p", place.apply, into=database, batch=3) as projection:
            projection.wait_for(20, PATIENCE)
        assert place.applied == [*range(1, 21)]
        assert len(broken) == 6

    def test_a_file_that_another_program_has_locked(self, store: InMemoryEventStore, sqlite_place: SQLitePlace) -> None:
        with store.project("p", sqlite_place.apply, into=sqlite_place.make()) as projection:
            projection.wait_for(put(store), PATIENCE)
            other = sqlite_place.connect()
            other.execute("BEGIN IMMEDIATE")
            put(store)
            eventually(lambda: not projection.health())
            assert "database is locked" in projection.health().reasons[0]
            assert projection.health().alive
            other.close()
            projection.wait_for(2, PATIENCE)
            assert projection.health()
        assert sqlite_place.applied == [1, 2]

    def test_a_server_that_is_not_there(self, store: InMemoryEventStore, free_port: int) -> None:
        database = DBAPI(lambda: psycopg.connect(f"host=127.0.0.1 port={free_port} user=nobody connect_timeout=2"))
        projection = store.project("p", lambda db, stored: None, into=database)
        with pytest.raises(ProjectionUnavailableError, match=r"has not begun within 0.3 s: OperationalError"):
            projection.start(timeout=0.3)
        assert "not started" in repr(projection)
        with pytest.raises(DeadlineExceededError):
            projection.wait_for(1, timeout=0.1)
        with pytest.raises(ProjectionUnavailableError):
            projection.set_aside()

    def test_what_is_no_driver_of_its_own(self, store: InMemoryEventStore, sqlite_place: SQLitePlace) -> None:
        projection = store.project("p", sqlite_place.apply, into=DBAPI(sqlite_place.connect))
        with pytest.raises(InvalidOptionError, match=r"use SQLite\(path\)"):
            projection.start()

    @pytest.mark.parametrize("path", [":memory:", "file:x?mode=memory", "/no/such/folder/read.db", ""])
    def test_what_is_no_file(self, path: str) -> None:
        with pytest.raises(InvalidOptionError):
            SQLite(path)

    def test_a_database_that_cannot_rebuild(
        self, store: InMemoryEventStore, sqlite_place: SQLitePlace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        link = sqlite_place.make().connect()
        link.close()
        monkeypatch.setattr(type(link), "dialect", "other")
        with pytest.raises(UnsupportedError, match="another name"):
            store.project("p", sqlite_place.apply, into=sqlite_place.make()).rebuild(["applied"])


class TestARecordThatIsNoEvent:
    def test_is_a_reason_to_stop(self, make_store: Any, sqlite_place: SQLitePlace) -> None:
        store = make_store()
        put(store)
        put_bytes(store, b"nonsense")
        put(store)
        with store.project("p", sqlite_place.apply, into=sqlite_place.make()) as projection:
            with pytest.raises(ProjectionStoppedError, match="stopped at event 2, which cannot be applied") as raised:
                projection.wait_for(3, PATIENCE)
            assert raised.value.sequence == 2
        assert sqlite_place.applied == [1]

    def test_is_set_aside(self, make_store: Any, sqlite_place: SQLitePlace) -> None:
        store = make_store()
        put(store)
        put_bytes(store, b"nonsense")
        put(store)
        with store.project("p", sqlite_place.apply, into=sqlite_place.make(), on_error="set_aside") as projection:
            projection.wait_for(3, PATIENCE)
            (aside,) = projection.set_aside()
            assert (aside.sequence, aside.event_id) == (2, "")
            with pytest.raises(MalformedRecordError):
                projection.apply_again()
            assert projection.set_aside() == [aside]
            projection.rebuild(["applied", "balances"])
            assert [one.sequence for one in projection.set_aside()] == [2]
        assert sqlite_place.applied == [1, 3]


class TestAnotherInstance:
    def test_one_that_was_frozen_applies_nothing_twice(
        self, store: InMemoryEventStore, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(projector, "_BEAT", 0.05)
        monkeypatch.setattr(projector, "_TAKE_OVER", 0.5)
        monkeypatch.setattr(projector, "_LOOK", 0.05)
        monkeypatch.setattr("aether_sync.stores.projections.projection._SILENCE", 0.2)
        freezes, frozen, thaws = threading.Event(), threading.Event(), threading.Event()
        original = ChunkReader.next

        def freezing(self: ChunkReader, timeout: float, **options: Any) -> Chunk:
            chunk = original(self, timeout, **options)
            if chunk.found and freezes.is_set():
                freezes.clear()
                frozen.set()
                thaws.wait(PATIENCE)
            return chunk

        monkeypatch.setattr(ChunkReader, "next", freezing)
        first, second = (store.project("p", place.adapting(place.apply), into=place.make()) for _ in range(2))
        with first:
            first.wait_for(put(store), PATIENCE)
            freezes.set()
            put(store)
            assert frozen.wait(PATIENCE)
            with second:
                eventually(lambda: second.is_active)
                second.wait_for(put(store), PATIENCE)
                assert first.is_active  # as it believes
                first.wait_for(3, PATIENCE)
                thaws.set()
                eventually(lambda: not first.is_active)
                first.wait_for(put(store), PATIENCE)
                assert [first.is_active, second.is_active] == [False, True]
        assert place.applied == [1, 2, 3, 4]


class TestWrongPlaces:
    def test_apply_must_not_wait_for_itself(self, store: InMemoryEventStore, sqlite_place: SQLitePlace) -> None:
        raised: list[type] = []

        def apply(db: Any, stored: StoredEvent) -> None:
            try:
                projection.wait_for(stored.sequence)
            except WrongThreadError:
                raised.append(WrongThreadError)
                projection.close()

        projection = store.project("p", apply, into=sqlite_place.make())
        projection.start()
        put(store)
        eventually(lambda: projection.closed)
        assert raised == [WrongThreadError]

    @pytest.mark.parametrize("error", [SystemExit("the user's"), KeyboardInterrupt()])
    def test_what_is_no_exception_stops_it(
        self, store: InMemoryEventStore, sqlite_place: SQLitePlace, error: BaseException
    ) -> None:
        def apply(db: Any, stored: StoredEvent) -> None:
            if stored.sequence == 2:
                raise error
            sqlite_place.apply(db, stored)

        put(store, 3)
        projection = store.project("p", apply, into=sqlite_place.make(), on_error="set_aside")
        with projection, pytest.raises(ProjectionStoppedError, match=type(error).__name__):
            projection.wait_for(3, PATIENCE)
        assert sqlite_place.applied == [1]

    @pytest.mark.parametrize("on_error", ["stop", "set_aside"])
    def test_a_statement_that_fails_and_is_passed_over(
        self, store: InMemoryEventStore, postgres_port: str, on_error: Any
    ) -> None:
        place = PostgresPlace(postgres_port)

        def apply(db: Any, stored: StoredEvent) -> None:
            place.apply(db, stored)
            if stored.sequence == 2:
                try:
                    db.execute("SELECT nonsense")
                except psycopg.Error:
                    pass

        put(store, 3)
        with store.project("p", place.adapting(apply), into=place.make(), on_error=on_error) as projection:
            if on_error == "stop":
                with pytest.raises(ProjectionStoppedError, match=r"at event 2 .* caught the error"):
                    projection.wait_for(3, PATIENCE)
                assert place.applied == [1]
                return
            projection.wait_for(3, PATIENCE)
            (aside,) = projection.set_aside()
            assert aside.sequence == 2
            assert "caught the error" in aside.reason
        assert place.applied == [1, 3]

    def test_closing_the_store_ends_it(self, sqlite_place: SQLitePlace) -> None:
        store = InMemoryEventStore()
        projection = store.project("p", sqlite_place.apply, into=sqlite_place.make())
        projection.start()
        projection.wait_for(put(store), PATIENCE)
        assert store.close()
        assert projection.closed
        assert not projection.health().alive
        for work in (projection.start, projection.set_aside, lambda: projection.wait_for(9)):
            with pytest.raises(StoreClosedError):
                work()
        assert sqlite_place.query("SELECT owner FROM aether_projections") == [("",)]
