"""``JetStreamEventStore``: the promises of every store."""

from collections.abc import Callable

import pytest

from aether_sync import JetStreamEventStore

from ..contracts import store as contract

MakeStore = Callable[..., JetStreamEventStore]


class OnAServer:
    """Two nodes; and with what arrives read by nats-py, where the faster reader is off."""

    @pytest.fixture(autouse=True, params=["fast", pytest.param("nats-py", marks=pytest.mark.slow)])
    def _reader(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AETHER_SYNC_LEAN", str(int(request.param == "fast")))

    @pytest.fixture
    def store(self, make_store: MakeStore) -> JetStreamEventStore:
        return make_store()

    @pytest.fixture
    def other(self, make_store: MakeStore) -> JetStreamEventStore:
        return make_store()


class TestAppending(OnAServer, contract.Appending): ...


class TestBadInput(OnAServer, contract.BadInput): ...


class TestCachedVersions(OnAServer, contract.CachedVersions): ...


class TestClosing(OnAServer, contract.Closing): ...


class TestFollowing(OnAServer, contract.Following): ...


class TestReadingActors(OnAServer, contract.ReadingActors): ...


class TestReadingTogether(OnAServer, contract.ReadingTogether): ...


class TestSaving(OnAServer, contract.Saving): ...


class TestSavingAgain(OnAServer, contract.SavingAgain): ...


class TestSavingTogether(OnAServer, contract.SavingTogether): ...


class TestSnapshots(OnAServer, contract.Snapshots): ...


class TestTelling(OnAServer, contract.Telling): ...
