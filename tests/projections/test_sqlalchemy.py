"""``SQLAlchemy``: what is not in the promises that all databases keep."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from aether_sync import ANY_VERSION, Event, InMemoryEventStore, InvalidOptionError, ProjectionStoppedError, StoredEvent
from aether_sync.contrib.sqlalchemy import SQLAlchemy

from ..support.common import PATIENCE
from ..support.places import SQLAlchemyPlace, SQLAlchemyPostgresPlace, SQLAlchemySQLitePlace


class Base(DeclarativeBase):
    pass


class Applied(Base):
    __tablename__ = "applied"
    sequence: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Any) -> SQLAlchemyPlace:
    if request.param == "sqlite":
        return SQLAlchemySQLitePlace(tmp_path)
    return SQLAlchemyPostgresPlace(request.getfixturevalue("postgres_port"))


def project(place: SQLAlchemyPlace, apply: Callable[[Any, StoredEvent], object], **options: Any) -> list[int]:
    """Project two events; return what took effect."""
    with InMemoryEventStore() as store:
        for _ in range(2):
            last = store.append("a", Event(event_type="Paid", actor_id="a"), expected_version=ANY_VERSION)
        with store.project("p", apply, into=SQLAlchemy(place.engine(**options))) as projection:
            projection.wait_for(last[0].sequence, PATIENCE)
    return place.applied


def by_core(db: sqlalchemy.Connection, stored: StoredEvent) -> None:
    db.execute(sqlalchemy.insert(Applied).values(sequence=stored.sequence))


def by_orm(db: sqlalchemy.Connection, stored: StoredEvent) -> None:
    with Session(db) as session:
        session.add(Applied(sequence=stored.sequence))
        session.commit()


@pytest.mark.parametrize("apply", [by_core, by_orm])
def test_core_and_orm(place: SQLAlchemyPlace, apply: Any) -> None:
    assert project(place, apply) == [1, 2]


@pytest.mark.parametrize("apply", [by_core, by_orm])
def test_a_rebuild_by_core_and_orm(place: SQLAlchemyPlace, apply: Any) -> None:
    with InMemoryEventStore() as store:
        for _ in range(3):
            store.append("a", Event(event_type="Paid", actor_id="a"), expected_version=ANY_VERSION)
        with store.project("p", apply, into=place.make(), batch=2) as projection:
            projection.wait_for(3, PATIENCE)
            store.project("p", apply, into=place.make(), batch=2).rebuild(["applied"])
            assert place.applied == [1, 2, 3]
            (stored,) = store.append("a", Event(event_type="Paid", actor_id="a"), expected_version=ANY_VERSION)
            projection.wait_for(stored.sequence, PATIENCE)
    assert place.applied == [1, 2, 3, 4]


@pytest.mark.parametrize("how", ["commit", "rollback"])
def test_a_transaction_that_apply_ends_is_noticed(place: SQLAlchemyPlace, how: str) -> None:
    def apply(db: sqlalchemy.Connection, stored: StoredEvent) -> None:
        by_core(db, stored)
        getattr(db, how)()

    with pytest.raises(ProjectionStoppedError, match=r"commit|roll"):
        project(place, apply)


def by_a_flush(db: sqlalchemy.Connection, stored: StoredEvent) -> None:
    with Session(db) as session:
        session.add(Applied(sequence=stored.sequence))
        session.flush()
        if stored.event.event_type == "Twice":
            db.execute(sqlalchemy.delete(Applied))
            session.execute(sqlalchemy.insert(Applied).values(sequence=stored.sequence))
            session.add(Applied(sequence=None))
            session.flush()


def failing(place: SQLAlchemyPlace, apply: Any) -> tuple[list[int], list[int]]:
    """Project events of which the third fails, all in one batch; return what took effect, and what was set aside."""
    with InMemoryEventStore() as store:
        for kind in ("Paid", "Paid", "Twice", "Paid"):
            store.append("a", Event(event_type=kind, actor_id="a"), expected_version=ANY_VERSION)
        with store.project("p", apply, into=place.make(), on_error="set_aside") as projection:
            projection.wait_for(4, PATIENCE)
            aside = [one.sequence for one in projection.set_aside()]
        with pytest.raises(ProjectionStoppedError) as caught:
            store.project("q", apply, into=place.make()).rebuild(["applied"])
        assert caught.value.sequence == 3
        store.project("p", apply, into=place.make(), on_error="set_aside").rebuild(["applied"])
    return place.applied, aside


def test_a_flush_that_fails_concerns_its_event_alone(place: SQLAlchemyPlace) -> None:
    assert failing(place, by_a_flush) == ([1, 2, 4], [3])


def test_a_flush_that_fails_and_is_passed_over(place: SQLAlchemyPlace) -> None:
    def apply(db: sqlalchemy.Connection, stored: StoredEvent) -> None:
        with suppress(sqlalchemy.exc.IntegrityError):
            by_a_flush(db, stored)

    assert failing(place, apply) == ([1, 2, 4], [3])


def test_a_savepoint_of_its_own_is_undone_alone(place: SQLAlchemyPlace) -> None:
    def apply(db: sqlalchemy.Connection, stored: StoredEvent) -> None:
        by_core(db, stored)
        with suppress(sqlalchemy.exc.IntegrityError), Session(db) as session, session.begin_nested():
            session.add(Applied(sequence=None))
        db.begin_nested()  # and left open

    assert project(place, apply) == [1, 2]


def beginning(engine: sqlalchemy.Engine, statement: str) -> sqlalchemy.Engine:
    """Have listeners begin the transactions of SQLite, as SQLAlchemy's manual shows it."""

    @sqlalchemy.event.listens_for(engine, "connect")
    def connect(connection: Any, record: object) -> None:
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "begin")
    def begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql(statement)

    return engine


@pytest.mark.parametrize("statement", ["BEGIN", "BEGIN IMMEDIATE"])
def test_a_listener_that_begins_the_transactions_of_sqlite(tmp_path: Any, statement: str) -> None:
    place = SQLAlchemySQLitePlace(tmp_path)
    engine = beginning(place.engine(), statement)
    place.engine = lambda: engine  # type: ignore[method-assign]
    test_a_rebuild_by_core_and_orm(place, by_core)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3.connect() has had autocommit= since Python 3.12")
def test_a_connection_of_sqlite_with_a_transaction_all_the_time(tmp_path: Any) -> None:
    place = SQLAlchemySQLitePlace(tmp_path)
    engine = place.engine(connect_args={"autocommit": False})
    place.engine = lambda: engine  # type: ignore[method-assign]
    test_a_rebuild_by_core_and_orm(place, by_core)


def test_no_connection_is_taken_of_the_pool(place: SQLAlchemyPlace) -> None:
    engine = place.engine(pool_size=1, max_overflow=0, pool_timeout=0.1)
    with engine.connect() as taken:
        link = SQLAlchemy(engine).connect()
        assert link.db.connection.dbapi_connection is not taken.connection.dbapi_connection
        link.close()
    with engine.connect() as again:
        again.execute(sqlalchemy.text("SELECT 1"))
    engine.dispose()


def test_a_forked_child_has_connections_of_its_own(place: SQLAlchemyPlace) -> None:
    engine = place.engine()
    database = SQLAlchemy(engine)
    with engine.connect() as ours:
        ours.execute(sqlalchemy.text("SELECT 1"))
    child = os.fork()
    if not child:
        try:
            link = database.connect()
            is_other = link.db.connection.dbapi_connection is not ours
            link.query("SELECT 1")
            link.close()
            os._exit(0 if is_other else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    with engine.connect() as ours:
        assert ours.execute(sqlalchemy.text("SELECT 1")).scalar() == 1
    engine.dispose()


class TestBadInput:
    @pytest.mark.parametrize("given", [None, "sqlite:///read.db", sqlalchemy.create_engine, object()])
    def test_what_is_no_engine(self, given: Any) -> None:
        with pytest.raises(InvalidOptionError, match="create_engine"):
            SQLAlchemy(given)

    def test_engines_of_asyncio(self, postgres_port: str) -> None:
        engine = create_async_engine(f"postgresql+psycopg://tester@127.0.0.1:{postgres_port}/postgres")
        with pytest.raises(InvalidOptionError, match="AsyncEngine"):
            SQLAlchemy(engine)  # type: ignore[arg-type]
        with pytest.raises(InvalidOptionError, match="asyncio"):
            SQLAlchemy(engine.sync_engine)

    def test_one_that_commits_by_itself(self, postgres_port: str) -> None:
        place = SQLAlchemyPostgresPlace(postgres_port)
        with pytest.raises(InvalidOptionError, match="AUTOCOMMIT"):
            SQLAlchemy(place.engine().execution_options(isolation_level="AUTOCOMMIT"))
        engine = SQLAlchemy(place.engine(isolation_level="AUTOCOMMIT"))
        with InMemoryEventStore() as store, pytest.raises(InvalidOptionError, match="AUTOCOMMIT"):
            store.project("p", by_core, into=engine).start(PATIENCE)

    def test_a_database_in_memory(self) -> None:
        with pytest.raises(InvalidOptionError, match="in memory"):
            SQLAlchemy(sqlalchemy.create_engine("sqlite://")).connect()

    def test_no_secret_is_shown(self) -> None:
        engine = sqlalchemy.create_engine("postgresql+psycopg://me:secret@127.0.0.1/shop")
        assert repr(SQLAlchemy(engine)) == "<SQLAlchemy postgresql+psycopg://me:***@127.0.0.1/shop>"
