"""Writing into an outbox by SQLAlchemy: within a transaction, and what is wrong is an error there."""

from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import MetaData, create_engine, inspect, text
from sqlalchemy.orm import DeclarativeBase, Session, scoped_session, sessionmaker

from aether_sync import (
    DuplicateIdError,
    EncodingError,
    Event,
    EventTypes,
    InMemoryEventStore,
    InvalidEventError,
    InvalidNamespaceError,
    InvalidOptionError,
    OutboxError,
)
from aether_sync.contrib.sqlalchemy import Outbox
from aether_sync.outbox import Relay

from .places import SQLAlchemyPlace


def event_of(actor: str = "order-1", **fields: Any) -> Event:
    return Event(event_type="Placed", actor_id=actor, **{"data": {"n": 1}, **fields})


class TestTransactions:
    def test_what_commits_each_statement_by_itself_is_refused(self, place: SQLAlchemyPlace) -> None:
        engine = create_engine(place.url, isolation_level="AUTOCOMMIT")
        with Session(engine) as session, pytest.raises(OutboxError, match="AUTOCOMMIT"):
            place.outbox.append(session, "order-1", event_of())
        with (
            place.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
            pytest.raises(OutboxError, match="AUTOCOMMIT"),
        ):
            place.outbox.append(connection, "order-1", event_of())
        engine.dispose()
        assert place.waiting() == 0

    def test_a_session_a_scoped_session_and_a_connection_can_have_it(self, place: SQLAlchemyPlace) -> None:
        scoped = scoped_session(sessionmaker(place.engine))
        place.outbox.append(scoped, "order-1", event_of())
        scoped.commit()
        scoped.remove()
        with place.engine.begin() as connection:
            place.outbox.publish(connection, "orders", event_of())
        with Session(place.engine) as session:
            with session.begin_nested() as savepoint:
                place.outbox.append(session, "order-1", event_of())
                savepoint.rollback()
            place.outbox.append(session, "order-1", event_of())
            session.commit()
        assert [(row.kind, row.name) for row in place.rows()] == [
            ("append", "order-1"),
            ("publish", "orders"),
            ("append", "order-1"),
        ]

    def test_nothing_else_can(self, lite: SQLAlchemyPlace) -> None:
        with pytest.raises(InvalidOptionError, match="Session or Connection"):
            lite.outbox.append(lite.engine, "order-1", event_of())  # type: ignore[arg-type]

    def test_a_declarative_base_has_the_table(self) -> None:
        class Base(DeclarativeBase):
            pass

        outbox = Outbox(Base.metadata, name="mail")
        engine = create_engine("sqlite://")
        Base.metadata.create_all(engine)
        assert inspect(engine).get_table_names() == ["mail"]
        with Session(engine) as session, session.begin():
            outbox.append(session, "order-1", event_of())
        with InMemoryEventStore() as store:
            assert outbox.relay(engine, store=store).drain() == 1
        engine.dispose()


class TestBadInput:
    @pytest.mark.parametrize(
        ("given", "error", "says"),
        [
            (("order-1", event_of(data={"n": {1}})), EncodingError, "set"),
            (("order-1", event_of("order-2")), InvalidEventError, "of actor 'order-2'"),
            (("order-1", event_of(version=3)), InvalidEventError, "leave version out"),
            (("order-1", "Placed"), InvalidEventError, "takes Event"),
            (("order-1",), InvalidEventError, "no event"),
            (("", event_of()), InvalidOptionError, "actor id"),
            (("x" * 513, event_of("x" * 513)), InvalidOptionError, "at most 512"),
        ],
        ids=lambda value: value.__name__ if isinstance(value, type) else None,
    )
    def test_an_event_that_cannot_be_stored(
        self, lite: SQLAlchemyPlace, given: Any, error: type[Exception], says: str
    ) -> None:
        with Session(lite.engine) as session:
            with pytest.raises(error, match=says):
                lite.outbox.append(session, *given)
            session.commit()
        assert lite.waiting() == 0

    def test_the_same_event_twice(self, lite: SQLAlchemyPlace) -> None:
        twice = event_of()
        with Session(lite.engine) as session, pytest.raises(DuplicateIdError):
            lite.outbox.append(session, "order-1", twice, twice)

    @pytest.mark.parametrize("version", [-1, "1", None, True])
    def test_an_expected_version(self, lite: SQLAlchemyPlace, version: Any) -> None:
        with Session(lite.engine) as session, pytest.raises(InvalidOptionError, match="expected_version"):
            lite.outbox.append(session, "order-1", event_of(), expected_version=version)

    @pytest.mark.parametrize("namespace", ["", "orders.*", "a b"])
    def test_a_namespace(self, lite: SQLAlchemyPlace, namespace: str) -> None:
        with Session(lite.engine) as session, pytest.raises(InvalidNamespaceError):
            lite.outbox.publish(session, namespace, event_of())

    def test_an_outbox_twice(self, lite: SQLAlchemyPlace) -> None:
        with pytest.raises(InvalidOptionError, match="give another name"):
            Outbox(lite.metadata)
        with pytest.raises(InvalidOptionError, match="MetaData"):
            Outbox(lite.engine)  # type: ignore[arg-type]

    def test_a_database_that_a_relay_does_not_know(self, lite: SQLAlchemyPlace) -> None:
        with InMemoryEventStore() as store, pytest.raises(InvalidOptionError, match=r"Engine|engine"):
            lite.outbox.relay("sqlite://", store=store)  # type: ignore[arg-type]
        with InMemoryEventStore() as store, pytest.raises(InvalidOptionError, match=r"outbox\.on"):
            Relay(lite.engine, store=store)  # type: ignore[arg-type]


class TestTable:
    def test_one_that_is_not_there(self, place: SQLAlchemyPlace) -> None:
        place.outbox.table.drop(place.engine)
        with Session(place.engine) as session, pytest.raises(OutboxError, match=r"no table 'aether_outbox'.*alembic"):
            place.outbox.append(session, "order-1", event_of())
        with InMemoryEventStore() as store, pytest.raises(OutboxError, match="no table 'aether_outbox'"):
            place.relay(store, None).__enter__()

    def test_one_of_another_release(self, place: SQLAlchemyPlace) -> None:
        with place.engine.begin() as connection:
            connection.execute(text("ALTER TABLE aether_outbox DROP COLUMN error"))
        with Session(place.engine) as session, pytest.raises(OutboxError, match="lacks error: another release"):
            place.outbox.append(session, "order-1", event_of())
        with InMemoryEventStore() as store, pytest.raises(OutboxError, match="lacks error"):
            place.relay(store, None).__enter__()

    def test_one_that_goes_while_a_relay_works(self, lite: SQLAlchemyPlace) -> None:
        with InMemoryEventStore() as store, lite.relay(store, None, poll=0.01) as relay:
            lite.outbox.table.drop(lite.engine)
            with pytest.raises(OutboxError, match="has stopped"):
                relay.wait(20)
            assert not relay.health().alive

    def test_a_database_that_is_away(self, postgres_port: str) -> None:
        away = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none", connect_args={"connect_timeout": 2})
        outbox = Outbox(MetaData())
        with InMemoryEventStore() as store, pytest.raises(OutboxError, match=r"not begun within 0.5 s"):
            relay = outbox.relay(away, store=store)
            try:
                relay.start(0.5)
            finally:
                relay.close()


def test_objects_of_registered_classes(lite: SQLAlchemyPlace) -> None:
    types = EventTypes()

    @types.event("Placed")
    @dataclass
    class Placed:
        qty: int

    metadata = MetaData()
    outbox = Outbox(metadata, name="typed", types=types)
    metadata.create_all(lite.engine)
    with Session(lite.engine) as session, session.begin():
        (made,) = outbox.append(session, "order-1", Placed(3))
    with InMemoryEventStore(types=types) as store:
        outbox.relay(lite.engine, store=store).drain()
        (event,) = store.get_events("order-1")
        assert event.value == Placed(3)
        assert event.id == made.id
