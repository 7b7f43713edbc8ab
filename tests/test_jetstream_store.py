"""``JetStreamEventStore``: the promises of every store, and what is particular to one on a server."""

from collections.abc import Callable, Iterator

import pytest

from aether_sync import JetStreamEventStore, NatsServer

from .store_suites import StorePromises

MakeStore = Callable[..., JetStreamEventStore]


@pytest.fixture
def make_store(server: NatsServer, prefix: str) -> Iterator[MakeStore]:
    """Makes stores, all of one stream, and closes them."""
    stores: list[JetStreamEventStore] = []

    def make(url: object = None, stream: str = prefix, **options: object) -> JetStreamEventStore:
        store = JetStreamEventStore(url or server.url, stream, **options)  # type: ignore[arg-type]
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()


class TestPromises(StorePromises):
    @pytest.fixture
    def store(self, make_store: MakeStore) -> JetStreamEventStore:
        return make_store()

    @pytest.fixture
    def other(self, make_store: MakeStore) -> JetStreamEventStore:
        return make_store()
