"""Building anew: which tables it may touch, what `apply` may do meanwhile, and what is said if its end is unclear."""

import sqlite3
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy

from aether_sync import (
    ANY_VERSION,
    DBAPI,
    Event,
    InMemoryEventStore,
    InvalidOptionError,
    ProjectionError,
    ProjectionStoppedError,
    SQLite,
    StoredEvent,
)
from aether_sync.contrib.sqlalchemy import SQLAlchemy
from aether_sync.stores.projections import rebuilding

from ..support.places import Place, PostgresPlace, SQLitePlace

pytestmark = pytest.mark.slow


@pytest.fixture
def store() -> Iterator[InMemoryEventStore]:
    with InMemoryEventStore() as store:
        for actor, kind in (("o-1", "New"), ("o-1", "Gone"), ("o-2", "New"), ("o-3", "New")):
            store.append(actor, Event(event_type=kind, actor_id=actor), expected_version=ANY_VERSION)
        yield store


@pytest.fixture
def postgres(postgres_port: str) -> PostgresPlace:
    return PostgresPlace(postgres_port)


def checking(place: SQLitePlace) -> SQLAlchemy:
    """Return a database of SQLite that checks foreign keys."""
    engine = sqlalchemy.create_engine(f"sqlite:///{place.path}")

    @sqlalchemy.event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, record: object) -> None:
        connection.execute("PRAGMA foreign_keys = ON")

    return SQLAlchemy(engine)


def tables(place: Place, *statements: str) -> None:
    for one in statements:
        place.query(one)


def ordering(place: Place) -> Any:
    """Return a function that writes orders with a line, which goes with its order."""

    def apply(db: Any, stored: StoredEvent) -> None:
        execute = db.exec_driver_sql if isinstance(db, sqlalchemy.Connection) else db.execute
        if stored.event.event_type == "New":
            execute(f"INSERT INTO orders (id) VALUES ({place.mark})", (stored.event.actor_id,))
            execute(f"INSERT INTO lines (id) VALUES ({place.mark})", (stored.event.actor_id,))
        else:
            execute(f"DELETE FROM orders WHERE id = {place.mark}", (stored.event.actor_id,))

    return apply


ORDERS = "CREATE TABLE orders (id VARCHAR(9) PRIMARY KEY)"
LINES = "CREATE TABLE lines (id VARCHAR(9) REFERENCES orders (id) ON DELETE CASCADE)"


class TestReferences:
    def test_sqlite_deletes_no_rows_of_tables_that_were_not_named(
        self, store: InMemoryEventStore, sqlite_place: SQLitePlace
    ) -> None:
        tables(sqlite_place, ORDERS, LINES, "CREATE TABLE notes (o REFERENCES Orders ON DELETE CASCADE)")
        tables(sqlite_place, "INSERT INTO orders VALUES ('o-2')", "INSERT INTO notes VALUES ('o-2')")
        apply = ordering(sqlite_place)
        with pytest.raises(InvalidOptionError, match=r"'Orders' cannot be rebuilt without 'notes'.*name both"):
            store.project("p", apply, into=checking(sqlite_place)).rebuild(["orders", "lines"])
        assert sqlite_place.query("SELECT * FROM notes") == [("o-2",)]
        store.project("p", apply, into=SQLite(sqlite_place.path)).rebuild(["orders", "lines"])
        assert sqlite_place.query("SELECT * FROM notes") == [("o-2",)]

    @pytest.mark.parametrize("kind", ["sqlite", "postgres"])
    def test_those_among_the_tables_act_as_they_do_live(
        self, store: InMemoryEventStore, kind: str, request: pytest.FixtureRequest
    ) -> None:
        place: Place = request.getfixturevalue("sqlite_place" if kind == "sqlite" else "postgres")
        tables(place, ORDERS, LINES)
        database = checking(place) if isinstance(place, SQLitePlace) else place.make()
        store.project("p", ordering(place), into=database).rebuild(["orders", "lines"])
        assert place.query("SELECT id FROM orders ORDER BY id") == [("o-2",), ("o-3",)]
        assert place.query("SELECT id FROM lines ORDER BY id") == [("o-2",), ("o-3",)]

    def test_one_to_a_table_that_is_only_read(self, store: InMemoryEventStore, sqlite_place: SQLitePlace) -> None:
        tables(sqlite_place, "CREATE TABLE kinds (name TEXT PRIMARY KEY)", "INSERT INTO kinds VALUES ('New')")
        tables(sqlite_place, "CREATE TABLE seen (kind TEXT REFERENCES kinds (name))")
        database = checking(sqlite_place)

        def apply(db: Any, stored: StoredEvent) -> None:
            db.exec_driver_sql("INSERT INTO seen VALUES (?)", (stored.event.event_type,))

        store.project("p", apply, into=database, event_types={"New"}).rebuild(["seen"])
        assert sqlite_place.query("SELECT count(*) FROM seen") == [(3,)]
        with pytest.raises(ProjectionError, match=r"'seen' were not exchanged.*'kinds' that is not there"):
            store.project("p", apply, into=database).rebuild(["seen"])
        assert sqlite_place.query("SELECT count(*) FROM seen") == [(3,)]

    def test_one_that_acts_beside_one_to_a_table_that_is_only_read(
        self, store: InMemoryEventStore, sqlite_place: SQLitePlace
    ) -> None:
        tables(sqlite_place, "CREATE TABLE kinds (name TEXT PRIMARY KEY)", LINES)
        tables(sqlite_place, "CREATE TABLE orders (id VARCHAR(9) PRIMARY KEY, kind TEXT REFERENCES kinds (name))")
        with pytest.raises(InvalidOptionError, match=r"'orders' refers to 'kinds'.*'lines' is changed"):
            store.project("p", ordering(sqlite_place), into=checking(sqlite_place)).rebuild(["orders", "lines"])


class TestReading:
    def numbering(self, db: Any, stored: StoredEvent) -> None:
        ((count,),) = db.execute("SELECT n FROM above").fetchall()
        db.execute(f"INSERT INTO seen (n) VALUES ({int(count) + 1})")

    def prepare(self, place: Place) -> None:
        tables(place, "CREATE TABLE seen (n BIGINT)", "INSERT INTO seen VALUES (7)")
        tables(
            place,
            "CREATE VIEW numbered AS SELECT count(*) AS n FROM seen",
            "CREATE VIEW above AS SELECT * FROM numbered",
        )

    def test_a_view_in_sqlite_is_one_of_the_new_rows(
        self, store: InMemoryEventStore, sqlite_place: SQLitePlace
    ) -> None:
        self.prepare(sqlite_place)
        store.project("p", self.numbering, into=sqlite_place.make()).rebuild(["seen"])
        assert sqlite_place.query("SELECT n FROM seen ORDER BY n") == [(1,), (2,), (3,), (4,)]

    @pytest.mark.parametrize("on_error", ["stop", "set_aside"])
    def test_a_view_in_postgres_is_refused(
        self, store: InMemoryEventStore, postgres: PostgresPlace, on_error: Any
    ) -> None:
        self.prepare(postgres)
        projection = store.project("p", self.numbering, into=postgres.make(), on_error=on_error)
        with pytest.raises(ProjectionStoppedError, match="rows that are to be replaced, by a view"):
            projection.rebuild(["seen"])
        assert postgres.query("SELECT n FROM seen") == [(7,)]

    def test_a_view_that_is_not_read_is_not_in_the_way(
        self, store: InMemoryEventStore, postgres: PostgresPlace
    ) -> None:
        self.prepare(postgres)
        store.project(
            "p", lambda db, stored: db.execute("INSERT INTO seen SELECT count(*) FROM seen"), into=postgres.make()
        ).rebuild(["seen"])
        assert postgres.query("SELECT n FROM numbered") == [(4,)]


class TestWhatPostgresRefuses:
    @pytest.mark.parametrize("on_error", ["stop", "set_aside"])
    @pytest.mark.parametrize(
        "statement", ["TRUNCATE applied", "SELECT * FROM balances FOR SHARE", "INSERT INTO part VALUES (1)"]
    )
    def test_the_error_says_why(
        self, store: InMemoryEventStore, postgres: PostgresPlace, statement: str, on_error: Any
    ) -> None:
        tables(postgres, "CREATE TABLE whole (n INT) PARTITION BY LIST (n)")
        tables(postgres, "CREATE TABLE part PARTITION OF whole FOR VALUES IN (1)", "INSERT INTO applied VALUES (7)")
        projection = store.project(
            "p", lambda db, stored: db.execute(statement), into=postgres.make(), on_error=on_error
        )
        with pytest.raises(ProjectionError, match=r"PostgreSQL lets apply\(\) write only the tables.*TRUNCATE"):
            projection.rebuild(["applied", "whole"])
        assert postgres.applied == [7]

    def test_a_sequence_that_no_column_owns(self, store: InMemoryEventStore, postgres: PostgresPlace) -> None:
        tables(postgres, "CREATE SEQUENCE numbers START 10 INCREMENT 5")
        tables(postgres, "CREATE TABLE marked (id TEXT DEFAULT 'm-' || nextval('numbers'), other BIGSERIAL)")
        projection = store.project(
            "p", lambda db, stored: db.execute("INSERT INTO marked DEFAULT VALUES"), into=postgres.make()
        )
        projection.rebuild(["marked"])
        tables(postgres, "INSERT INTO marked DEFAULT VALUES")
        found = postgres.query("SELECT id, other FROM marked ORDER BY other")
        assert found == [("m-10", 1), ("m-15", 2), ("m-20", 3), ("m-25", 4), ("m-30", 5)]
        assert projection.health(timeout=0).alive


class TestTheEnd:
    @pytest.mark.parametrize("lost", ["before", "after"])
    def test_an_answer_that_is_lost(self, store: InMemoryEventStore, postgres: PostgresPlace, lost: str) -> None:
        projection = store.project("p", postgres.apply, into=DBAPI(losing(postgres, lost), driver=psycopg))
        if lost == "after":
            projection.rebuild(["applied", "balances"])
        else:
            with pytest.raises(ProjectionError, match=r"is as it was: OperationalError: lost"):
                projection.rebuild(["applied", "balances"])
        assert postgres.applied == ([1, 2, 3, 4] if lost == "after" else [])

    def test_an_answer_that_nobody_knows(
        self, store: InMemoryEventStore, postgres: PostgresPlace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rebuilding, "_FIND_OUT", 0.3)
        connect = losing(postgres, "after", is_away=True)
        projection = store.project("p", postgres.apply, into=DBAPI(connect, driver=psycopg))
        with pytest.raises(ProjectionError, match=r"it is not known whether .* was built anew.*once more does no harm"):
            projection.rebuild(["applied", "balances"])

    def test_progress_that_fails_after_the_end(self, store: InMemoryEventStore, sqlite_place: SQLitePlace) -> None:
        def report(done: int, total: int) -> None:
            if sqlite_place.applied:
                raise BrokenPipeError("gone")

        projection = store.project("p", sqlite_place.apply, into=sqlite_place.make())
        with pytest.raises(ProjectionError, match=r"is built anew, but then progress\(\) has failed: BrokenPipeError"):
            projection.rebuild(["applied", "balances"], progress=report)
        assert sqlite_place.applied == [1, 2, 3, 4]


def losing(place: PostgresPlace, lost: str, *, is_away: bool = False) -> Any:
    """Return a function that connects; the connection is lost at the commit of the exchange."""
    ended: list[str] = []

    class Losing(psycopg.Connection[Any]):
        def commit(self) -> None:
            if not ended and "DELETE FROM" in self.seen:
                ended.append(lost)
                if lost == "after":
                    super().commit()
                self.close()
                raise psycopg.OperationalError("lost")
            super().commit()

        seen = ""

        def cursor(self, *args: Any, **options: Any) -> Any:
            return Noting(self)

    class Noting(psycopg.Cursor[Any]):
        def execute(self, query: Any, *args: Any, **options: Any) -> Any:
            self.connection.seen += str(query)  # type: ignore[attr-defined]
            return super().execute(query, *args, **options)

    def connect() -> Any:
        if ended and is_away:
            raise psycopg.OperationalError("away")
        return Losing.connect(place.conninfo)

    return connect
