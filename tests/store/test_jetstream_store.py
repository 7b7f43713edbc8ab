"""``JetStreamEventStore``: the promises of every store, and what is particular to one on a server."""

from collections.abc import Callable

import pytest

from aether_sync import JetStreamEventStore

from ..support.store_suite import StorePromises

MakeStore = Callable[..., JetStreamEventStore]


class TestPromises(StorePromises):
    @pytest.fixture
    def store(self, make_store: MakeStore) -> JetStreamEventStore:
        return make_store()

    @pytest.fixture
    def other(self, make_store: MakeStore) -> JetStreamEventStore:
        return make_store()


class TestPromisesOverThePublicPath(TestPromises):
    """As above, with what arrives read by nats-py."""

    @pytest.fixture(autouse=True)
    def _public(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AETHER_SYNC_LEAN", "0")
