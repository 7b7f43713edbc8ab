"""``idempotent``: an event that comes twice takes effect once."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aether_sync import (
    ANY_VERSION,
    Delivery,
    Event,
    InMemoryEventStore,
    InvalidOptionError,
    JetStreamEventStore,
    SQLite,
    Worker,
)
from aether_sync.worker.idempotence import HandledOnce

from ..support.common import PATIENCE, eventually, run_threads
from ..support.places import PostgresPlace, running_postgres
from ..support.stores import event, save
from ..support.typed import Placed, typed

MakeStore = Callable[..., JetStreamEventStore]

pytestmark = pytest.mark.concurrent


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = str(tmp_path / "own.db")
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE effects (sequence INTEGER)")
    connection.close()
    return path


def effects(path: str) -> list[int]:
    connection = sqlite3.connect(path)
    try:
        return [row[0] for row in connection.execute("SELECT sequence FROM effects ORDER BY sequence")]
    finally:
        connection.close()


def note(db: Any, delivery: Delivery) -> None:
    db.execute("INSERT INTO effects VALUES (?)", (delivery.sequence,))


@pytest.fixture
def memory() -> Iterator[InMemoryEventStore]:
    with InMemoryEventStore() as store:
        yield store


class TestWithSQLite:
    def test_what_comes_twice_takes_effect_once(self, store: JetStreamEventStore, path: str) -> None:
        worker = Worker(store=store)

        @worker.consume("c", threads=2, idempotent=SQLite(path))
        def handle(db: sqlite3.Cursor, delivery: Delivery) -> None:
            note(db, delivery)
            if delivery.attempt == 1:
                delivery.nak()  # as if the acknowledgement were lost

        save(store, 20)
        with worker:
            eventually(lambda: worker.metrics().handlers[0].passed_by == 20)
            store.consumer("c").wait_for(20, timeout=PATIENCE)
        assert effects(path) == list(range(1, 21))

    def test_what_fails_takes_no_effect_until_it_does_not(self, memory: InMemoryEventStore, path: str) -> None:
        worker = Worker(store=memory)

        @worker.consume("c", idempotent=SQLite(path), retry_delay=0.01)
        def handle(db: sqlite3.Cursor, delivery: Delivery) -> None:
            note(db, delivery)
            if delivery.attempt < 3:
                raise ConnectionError

        save(memory, 3)
        with worker:
            memory.consumer("c").wait_for(3, timeout=PATIENCE)
        assert effects(path) == [1, 2, 3]
        (metrics,) = worker.metrics().handlers
        assert (metrics.failed, metrics.handled, metrics.passed_by) == (6, 3, 0)

    def test_two_consumers_have_notes_of_their_own(self, memory: InMemoryEventStore, path: str) -> None:
        worker = Worker(store=memory)
        worker.consume("c", idempotent=SQLite(path))(note)
        worker.consume("d", idempotent=SQLite(path))(note)
        save(memory, 2)
        with worker:
            memory.consumer("c").wait_for(2, timeout=PATIENCE)
            memory.consumer("d").wait_for(2, timeout=PATIENCE)
        assert effects(path) == [1, 1, 2, 2]

    def test_a_value_behind_the_database(self, path: str) -> None:
        with InMemoryEventStore(types=typed()) as store:
            worker, got = Worker(store=store), list[Placed]()

            @worker.consume("c", event_types={Placed}, idempotent=SQLite(path))
            def handle(db: sqlite3.Cursor, placed: Placed) -> None:
                got.append(placed)

            store.append("a", Placed(1, "EUR"), expected_version=ANY_VERSION)
            with worker:
                eventually(lambda: got)

    def test_a_commit_is_refused(self, memory: InMemoryEventStore, path: str) -> None:
        worker = Worker(store=memory)

        @worker.consume("c", idempotent=SQLite(path), max_deliver=2, retry_delay=0.01)
        def handle(db: sqlite3.Cursor, delivery: Delivery) -> None:
            note(db, delivery)
            db.connection.commit()

        save(memory, 1)
        with worker:
            eventually(lambda: memory.consumer("c").dead_letters())
        assert "must neither commit nor roll back" in memory.consumer("c").dead_letters()[0].reason
        assert effects(path) == []

    def test_another_event_at_the_same_place_is_told(self, path: str) -> None:
        for letters in (0, 1):
            with InMemoryEventStore() as store:
                worker = Worker(store=store)
                worker.consume("c", idempotent=SQLite(path), max_deliver=1)(note)
                save(store, 1)
                with worker:
                    store.consumer("c").wait_for(1, timeout=PATIENCE)
                found = store.consumer("c").dead_letters()
                assert len(found) == letters
        assert "the stream was made anew" in found[0].reason
        assert effects(path) == [1]

    def test_a_database_that_is_busy_costs_no_attempt(self, memory: InMemoryEventStore, path: str) -> None:
        worker = Worker(store=memory)
        worker.consume("c", idempotent=SQLite(path), max_deliver=1)(note)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        save(memory, 1)
        with worker:
            eventually(lambda: worker.metrics().handlers[0].busy == 1)
            threading.Event().wait(1.2)  # longer than SQLite waits by itself
            other.execute("COMMIT")
            memory.consumer("c").wait_for(1, timeout=PATIENCE)
        other.close()
        assert memory.consumer("c").dead_letters() == []
        assert effects(path) == [1]


class FakeDelivery(Delivery):
    """As two processes have it when the ack wait was over for one."""

    consumer = "c"  # type: ignore[assignment]
    stream = "s"  # type: ignore[assignment]

    def __init__(self, sequence: int, event: Event) -> None:
        self.sequence, self.event = sequence, event


@pytest.fixture(scope="session")
def postgres_port() -> Iterator[str]:
    with running_postgres() as port:
        yield port


@pytest.mark.slow
def test_of_two_at_the_same_time_one_has_the_effect(postgres_port: str) -> None:
    place = PostgresPlace(postgres_port)
    lock, done, repeated = threading.Barrier(4), list[int](), list[int]()

    def call(db: Any, delivery: Delivery) -> None:
        done.append(delivery.sequence)
        threading.Event().wait(0.05)

    def handle() -> None:
        once = HandledOnce(place.make(), call, lambda: repeated.append(1))
        for number, one in enumerate(events):
            lock.wait(PATIENCE)
            once(FakeDelivery(number, one))
        once.disconnect()

    events = [event() for _ in range(10)]
    run_threads(*[handle] * 4)
    assert sorted(done) == list(range(10))
    assert len(repeated) == 30


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (lambda delivery: None, "must take the database, and then a Delivery or an Event"),
        (lambda: None, "must take the database, and then"),
    ],
)
def test_a_handler_without_the_database(memory: InMemoryEventStore, path: str, handler: Any, says: str) -> None:
    with pytest.raises(InvalidOptionError, match=says):
        Worker(store=memory).consume("c", idempotent=SQLite(path))(handler)


def test_a_handler_that_takes_the_database_second(memory: InMemoryEventStore, path: str) -> None:
    def handle(delivery: Delivery, db: Any) -> None: ...

    with pytest.raises(
        InvalidOptionError, match="'delivery' is annotated with Delivery, and the first one gets the database"
    ):
        Worker(store=memory).consume("c", idempotent=SQLite(path))(handle)
    with pytest.raises(InvalidOptionError, match="idempotent must be a database"):
        Worker(store=memory).consume("c", idempotent=path)  # type: ignore[arg-type]
