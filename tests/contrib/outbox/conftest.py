"""Databases with an outbox."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ...support.places import running_postgres
from .places import SQLAlchemyPlace, postgres_place, sqlite_place


@pytest.fixture(scope="session", autouse=True)  # before the guards that look for what a test leaves behind
def postgres_port() -> Iterator[str]:
    """The port of a server for all tests that do not harm it."""
    with running_postgres() as port:
        yield port


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SQLAlchemyPlace]:
    """A database of the test's own."""
    made = (
        sqlite_place(tmp_path)
        if request.param == "sqlite"
        else postgres_place(request.getfixturevalue("postgres_port"))
    )
    yield made
    made.engine.dispose()


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[SQLAlchemyPlace]:
    """A database of SQLite, where the database does not matter."""
    made = sqlite_place(tmp_path)
    yield made
    made.engine.dispose()
