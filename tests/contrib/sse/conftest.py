"""What the tests of streams share."""

from collections.abc import Callable, Iterator

import pytest

from aether_sync import EventStore, InMemoryEventStore
from aether_sync.contrib import sse


@pytest.fixture(params=["memory", "jetstream"])
def any_store(request: pytest.FixtureRequest) -> Iterator[EventStore]:
    """A store of either kind."""
    if request.param == "memory":
        with InMemoryEventStore() as store:
            yield store
    else:
        yield request.getfixturevalue("store")


@pytest.fixture
def stream() -> Iterator[Callable[..., sse.EventStream]]:
    """Makes streams, and closes them."""
    made: list[sse.EventStream] = []

    def make(source: object, *args: object, heartbeat: float = 0.1, **options: object) -> sse.EventStream:
        made.append(sse.stream(source, *args, heartbeat=heartbeat, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()
