"""A PostgreSQL server for all tests of projections that use one, and a database for each test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aether_sync import EventStore, InMemoryEventStore, JetStreamEventStore

from ..support.places import (
    Place,
    PostgresPlace,
    SQLAlchemyPostgresPlace,
    SQLAlchemySQLitePlace,
    SQLitePlace,
    running_postgres,
)


@pytest.fixture(scope="session", autouse=True)  # before the guards that look for what a test leaves behind
def postgres_port() -> Iterator[str]:
    """The port of a server for all tests that do not harm it."""
    with running_postgres() as port:
        yield port


@pytest.fixture(
    params=[
        ("memory", "sqlite"),
        ("jetstream", "postgres"),
        pytest.param(("memory", "sqlalchemy-postgres"), marks=pytest.mark.slow),
        pytest.param(("jetstream", "sqlalchemy-sqlite"), marks=pytest.mark.slow),
        pytest.param(("memory", "postgres"), marks=pytest.mark.slow),
        pytest.param(("jetstream", "sqlite"), marks=pytest.mark.slow),
    ],
    ids="-".join,
)
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A store and a database; the other pairs come when the slow tests run. `test_sqlalchemy` has what is its own."""
    kinds: tuple[str, str] = request.param
    return kinds


@pytest.fixture
def place(pair: tuple[str, str], request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A database of the test's own."""
    if pair[1] == "sqlite":
        return SQLitePlace(tmp_path)
    if pair[1] == "sqlalchemy-sqlite":
        return SQLAlchemySQLitePlace(tmp_path)
    kind = PostgresPlace if pair[1] == "postgres" else SQLAlchemyPostgresPlace
    return kind(request.getfixturevalue("postgres_port"))


@pytest.fixture
def sqlite_place(tmp_path: Path) -> SQLitePlace:
    return SQLitePlace(tmp_path)


@pytest.fixture
def any_store(pair: tuple[str, str], request: pytest.FixtureRequest) -> Iterator[EventStore]:
    """A store of the test's own."""
    if pair[0] == "memory":
        with InMemoryEventStore() as memory:
            yield memory
    else:
        make: Callable[[], JetStreamEventStore] = request.getfixturevalue("make_store")
        yield make()
