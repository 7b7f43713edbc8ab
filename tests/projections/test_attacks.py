"""What users do to projections, their transactions and their streams that must neither lose nor double anything."""

import logging
import threading
from contextlib import closing
from typing import Any

import psycopg
import pytest

from aether_sync import (
    ANY_VERSION,
    DBAPI,
    DeadlineExceededError,
    Event,
    InMemoryEventStore,
    JetStreamEventStore,
    Projection,
    ProjectionError,
    ProjectionMismatchError,
    ProjectionStoppedError,
    StoredEvent,
)
from aether_sync.stores.projections import checkpoints, progress

from ..support.common import PATIENCE, eventually
from ..support.places import Place, PostgresPlace, SQLitePlace

pytestmark = pytest.mark.slow


@pytest.fixture
def store() -> Any:
    with InMemoryEventStore(namespace="shop") as store:
        yield store


@pytest.fixture
def postgres(postgres_port: str) -> PostgresPlace:
    return PostgresPlace(postgres_port)


@pytest.fixture(params=[pytest.param("sqlite", marks=pytest.mark.slow), "postgres"])
def place(request: pytest.FixtureRequest) -> Place:
    made: Place = request.getfixturevalue("sqlite_place" if request.param == "sqlite" else "postgres")
    return made


def put(store: Any, kind: str = "Paid", actor: str = "a") -> int:
    (stored,) = store.append(actor, Event(event_type=kind, actor_id=actor), expected_version=ANY_VERSION)
    sequence: int = stored.sequence
    return sequence


class TestARebuildWithOtherFilters:
    def test_ends_an_instance_with_the_old_ones_though_no_event_has_come_meanwhile(
        self, store: InMemoryEventStore, place: Place
    ) -> None:
        with store.project("p", place.apply, into=place.make(), event_types=["X"]) as old:
            for kind in "XYX":
                last = put(store, kind)
            old.wait_for(last, PATIENCE)
            new = store.project("p", place.apply, into=place.make())
            new.rebuild(["applied", "balances"])
            for kind in "YYX":
                put(store, kind)
            with pytest.raises(ProjectionMismatchError):
                old.wait(PATIENCE)
        with new:
            new.wait_for(put(store, "Y"), PATIENCE)
        assert place.applied == [*range(1, 8)]


class TestATransactionThatApplyRollsBack:
    def apply(self, place: Place) -> Any:
        """Return what rolls back in the midst, and goes on writing."""

        def apply(db: Any, stored: StoredEvent) -> None:
            if stored.sequence == 2 and isinstance(place, SQLitePlace):
                with pytest.raises(Exception, match="UNIQUE"):  # SQLite rolls back by itself
                    db.execute("INSERT OR ROLLBACK INTO balances SELECT actor, 0, 0 FROM balances")
            elif stored.sequence == 2:
                db.connection.rollback()
                place.apply(db, stored)
                db.connection.commit()
                return
            place.apply(db, stored)

        return apply

    def test_its_rows_are_doubtful_afterwards(self, store: InMemoryEventStore, place: Place) -> None:
        for _ in range(3):
            put(store)
        for _ in range(2):
            projection = store.project("p", self.apply(place), into=place.make(), on_error="set_aside")
            with pytest.raises(ProjectionStoppedError, match=r"rolled back .* rebuild"), projection:
                projection.wait_for(3, PATIENCE)
            assert place.applied in ([2, 3], [2])  # what was kept was not written twice
        store.project("p", place.apply, into=place.make()).rebuild(["applied", "balances"])
        assert place.applied == [1, 2, 3]


class TestApplyingAgain:
    def set_aside(self, store: InMemoryEventStore, place: Place) -> Projection:
        def apply(db: Any, stored: StoredEvent) -> None:
            if stored.sequence == 1 and refuses:
                raise LookupError("not yet")
            (later or [place.apply])[-1](db, stored)

        refuses, later = [True], list[Any]()
        put(store)
        projection = store.project("p", apply, into=place.make(), on_error="set_aside")
        projection.start()
        projection.wait_for(1, PATIENCE)
        refuses.clear()
        self.later = later
        return projection

    def test_a_commit_in_it_leaves_the_event_and_a_doubt(
        self, store: InMemoryEventStore, postgres: PostgresPlace
    ) -> None:
        def commits(db: Any, stored: StoredEvent) -> None:
            postgres.apply(db, stored)
            db.connection.commit()
            postgres.apply(db, stored)

        with self.set_aside(store, postgres) as projection:
            self.later.append(commits)
            with pytest.raises(ProjectionStoppedError, match="still set aside"):
                projection.apply_again()
            assert [one.sequence for one in projection.set_aside()] == [1]
            put(store)
            with pytest.raises(ProjectionStoppedError, match="still set aside"):
                projection.wait(PATIENCE)
        assert postgres.applied == [1]

    def test_a_rollback_in_it_leaves_a_doubt_too(self, store: InMemoryEventStore, postgres: PostgresPlace) -> None:
        with self.set_aside(store, postgres) as projection:
            self.later.append(lambda db, stored: db.connection.rollback())
            with pytest.raises(ProjectionStoppedError, match="still set aside"):
                projection.apply_again(1)
            with pytest.raises(ProjectionStoppedError, match="still set aside"):
                projection.wait(PATIENCE)

    def test_the_active_instance_goes_on(self, store: InMemoryEventStore, place: Place) -> None:
        with self.set_aside(store, place) as projection:
            assert projection.apply_again() == 1
            projection.wait_for(put(store), PATIENCE)
            assert projection.is_active
        assert place.applied == [1, 2]

    def test_one_is_discarded(self, store: InMemoryEventStore, place: Place) -> None:
        with self.set_aside(store, place) as projection:
            assert projection.discard(1)
            assert not projection.discard(1)
            assert projection.set_aside() == []
            assert projection.apply_again() == 0
        assert place.applied == []


class TestErrorsOfTheDatabase:
    def test_a_constraint_that_is_checked_at_the_commit(
        self, store: InMemoryEventStore, postgres: PostgresPlace
    ) -> None:
        postgres.query("CREATE TABLE parents (id BIGINT PRIMARY KEY)")
        postgres.query("CREATE TABLE children (id BIGINT REFERENCES parents DEFERRABLE INITIALLY DEFERRED)")

        def apply(db: Any, stored: StoredEvent) -> None:
            postgres.apply(db, stored)
            if stored.sequence == 2:
                db.execute("INSERT INTO children VALUES (2)")

        for _ in range(3):
            put(store)
        with store.project("p", apply, into=postgres.make(), on_error="set_aside") as projection:
            projection.wait_for(3, PATIENCE)
            (aside,) = projection.set_aside()
            assert aside.sequence == 2
            assert "ForeignKeyViolation" in aside.reason
        assert postgres.applied == [1, 3]

    def test_a_server_that_is_read_only_for_a_while(self, store: InMemoryEventStore, postgres: PostgresPlace) -> None:
        ways = ["on"]
        database = DBAPI(
            lambda: psycopg.connect(f"{postgres.conninfo[:-1]} -c default_transaction_read_only={ways[-1]}'")
        )
        ways.append("off")
        put(store)
        with store.project("p", postgres.apply, into=database) as projection:
            projection.wait_for(1, PATIENCE)
            ways.append("on")
            postgres.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
            last = put(store)
            eventually(lambda: any("read-only" in one for one in projection.health(timeout=0).reasons))
            assert projection.health(timeout=0).alive
            ways.append("off")
            projection.wait_for(last, PATIENCE)
        assert postgres.applied == [1, 2]

    def test_a_cursor_that_apply_closes(self, store: InMemoryEventStore, postgres: PostgresPlace) -> None:
        def apply(db: Any, stored: StoredEvent) -> None:
            with db:
                postgres.apply(db, stored)

        for _ in range(2):
            put(store)
        with store.project("p", apply, into=postgres.make()) as projection:
            with pytest.raises(ProjectionStoppedError, match=r"event 2 .*cursor is closed"):
                projection.wait_for(2, PATIENCE)
            assert postgres.applied == [1]

    @pytest.mark.slow
    def test_a_lock_that_apply_does_not_get(self, store: InMemoryEventStore, sqlite_place: SQLitePlace) -> None:
        """An error that passes comes each time: pauses grow, and health() has it all the while."""
        tries = list[int]()

        def apply(db: Any, stored: StoredEvent) -> None:
            tries.append(stored.sequence)
            with closing(sqlite_place.connect()) as other:
                other.execute("PRAGMA busy_timeout = 0")
                sqlite_place.apply(other.cursor(), stored)

        put(store)
        with store.project("p", apply, into=sqlite_place.make()) as projection:
            eventually(lambda: len(tries) >= 3)
            healths = [projection.health(timeout=0) for _ in range(50) if not threading.Event().wait(0.01)]
            assert all("database is locked" in "".join(one.reasons) for one in healths)
            with pytest.raises(DeadlineExceededError, match="database is locked"):
                projection.wait_for(1, 1.5)
            assert len(tries) < 8

    def test_an_instance_that_hangs_in_its_transaction(
        self, store: InMemoryEventStore, postgres: PostgresPlace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(checkpoints._PATIENT, "postgresql", "SET LOCAL lock_timeout = '50ms'")
        with store.project("p", postgres.apply, into=postgres.make()) as first:
            first.wait_for(put(store), PATIENCE)
        with closing(psycopg.connect(postgres.conninfo)) as hanging:
            hanging.execute("UPDATE aether_projections SET beat = beat + 1")
            with store.project("p", postgres.apply, into=postgres.make()) as second:
                eventually(lambda: any("lock" in one for one in second.health(timeout=0).reasons))
                hanging.rollback()
                second.wait_for(put(store), PATIENCE)
        assert postgres.applied == [1, 2]


class TestWaiting:
    def test_what_was_known_long_ago_is_asked_for(
        self, store: InMemoryEventStore, sqlite_place: SQLitePlace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Elsewhere the rows may have been built anew from another stream."""
        monkeypatch.setattr(progress, "_FRESH", 0.1)
        elsewhere = store.project("p", sqlite_place.apply, into=sqlite_place.make())
        with store.project("p", sqlite_place.apply, into=sqlite_place.make()) as projection:
            for _ in range(3):
                last = put(store)
            projection.wait_for(last, PATIENCE)
        elsewhere.wait_for(3, PATIENCE)
        sqlite_place.query("UPDATE aether_projections SET sequence = 1")
        threading.Event().wait(0.15)
        elsewhere.wait_for(1, PATIENCE)
        with pytest.raises(DeadlineExceededError):
            elsewhere.wait_for(2, 0.1)

    def test_the_row_of_another_stream_is_refused(self, sqlite_place: SQLitePlace) -> None:
        with InMemoryEventStore(namespace="a") as one, InMemoryEventStore(namespace="b") as other:
            with one.project("p", sqlite_place.apply, into=sqlite_place.make()) as projection:
                projection.wait_for(put(one), PATIENCE)
            elsewhere = other.project("p", sqlite_place.apply, into=sqlite_place.make())
            with pytest.raises(ProjectionMismatchError, match=r"'a'.*was to be.*'b'"):
                elsewhere.wait_for(put(other), PATIENCE)

    @pytest.mark.parametrize("options", [{}, {"actors": "a"}, {"event_types": ["Sold"]}])
    def test_an_event_that_the_store_does_not_have(
        self, store: InMemoryEventStore, sqlite_place: SQLitePlace, options: Any
    ) -> None:
        with store.project("p", sqlite_place.apply, into=sqlite_place.make(), **options) as projection:
            projection.wait_for(put(store), PATIENCE)
            with pytest.raises(DeadlineExceededError):
                projection.wait_for(1_000, 0.2)

    def test_nobody_projects(self, store: InMemoryEventStore, sqlite_place: SQLitePlace) -> None:
        projection = store.project("p", sqlite_place.apply, into=sqlite_place.make())
        with pytest.raises(DeadlineExceededError, match="no instance of it is active, so start one"):
            projection.wait_for(put(store), 0.2)

    def test_a_service_waits_for_the_end(self, store: InMemoryEventStore, sqlite_place: SQLitePlace) -> None:
        with pytest.raises(ProjectionError, match=r"call start\(\)"):
            store.project("p", sqlite_place.apply, into=sqlite_place.make()).wait()
        with store.project("p", sqlite_place.apply, into=sqlite_place.make()) as projection:
            assert not projection.wait(0.01)
            ended = list[bool]()
            waiting = threading.Thread(target=lambda: ended.append(projection.wait(PATIENCE)))
            waiting.start()
            projection.close()
            waiting.join(PATIENCE)
            assert ended == [True]

    def test_no_server_for_the_store_is_a_reason(self, free_port: int, sqlite_place: SQLitePlace) -> None:
        with JetStreamEventStore(f"nats://127.0.0.1:{free_port}", connect_timeout=1.0) as store:
            projection = store.project("p", sqlite_place.apply, into=sqlite_place.make())
            with pytest.raises(Exception, match=r"nothing listens there|connection refused"):
                projection.start(timeout=1.0)


def test_logs_have_the_traceback_of_apply(
    store: InMemoryEventStore, sqlite_place: SQLitePlace, caplog: pytest.LogCaptureFixture
) -> None:
    def apply_badly(db: Any, stored: StoredEvent) -> None:
        raise LookupError(stored.sequence)

    put(store)
    with store.project("p", apply_badly, into=sqlite_place.make(), on_error="set_aside") as projection:
        projection.wait_for(1, PATIENCE)
    with store.project("q", apply_badly, into=sqlite_place.make()) as projection, pytest.raises(ProjectionStoppedError):
        projection.wait_for(1, PATIENCE)
    errors = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert len(errors) == 2
    for one in errors:
        assert "in apply_badly" in logging.Formatter().format(one)
