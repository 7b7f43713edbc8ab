"""``JetStreamEventStore``: the promises of every store."""

import socket
from collections.abc import Callable
from typing import Any

import pytest

from aether_sync import ConnectError, Event, EventTypes, JetStreamEventStore

from ..contracts import store as contract
from ..support.common import UNIT, first_of
from ..support.typed import Cancelled, Placed, typed

MakeStore = Callable[..., JetStreamEventStore]


@pytest.mark.parametrize("connect", first_of(["wait", "background"]))
def test_a_stream_in_place_of_the_url_is_asked_about(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: object) -> list[Any]:
        raise socket.gaierror("nobody knows")

    monkeypatch.setenv("AETHER_SYNC_UVLOOP", "0")  # it would ask past Python
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    asked = {
        "orders": True,
        "orders.example": False,
        "nats://orders": False,
        "a,b": False,
        "a-secret@orders": False,
        "localhost": False,
    }
    for given, is_asked in asked.items():
        with (
            JetStreamEventStore(given, connect=connect, connect_timeout=0.5 * UNIT) as store,
            pytest.raises(ConnectError, match="the host name is not known") as caught,
        ):
            store.last_sequence(timeout=0.5 * UNIT)
        assert "secret" not in str(caught.value)
        assert str(caught.value).endswith("did you mean stream='orders'?") is is_asked


class OnAServer:
    """Two nodes; and with what arrives read by nats-py, where the faster reader is off."""

    @pytest.fixture(autouse=True, params=["fast", pytest.param("nats-py", marks=pytest.mark.slow)])
    def _reader(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AETHER_SYNC_LEAN", str(int(request.param == "fast")))

    @pytest.fixture(autouse=True)
    def _hasty(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The server, which never restarts, is believed sooner when it does not know of something."""
        monkeypatch.setattr("aether_sync.stores.consumers.durable._RECOVERY", 0.2 * UNIT)
        monkeypatch.setattr("aether_sync.stores._jetstream.follower._CATCH_UP", 0.2 * UNIT)

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


class TestMeasuring(OnAServer, contract.Measuring): ...


class TestReadingActors(OnAServer, contract.ReadingActors): ...


class TestReadingAll(OnAServer, contract.ReadingAll): ...


class TestReadingTogether(OnAServer, contract.ReadingTogether): ...


class TestSaving(OnAServer, contract.Saving): ...


class TestSavingAgain(OnAServer, contract.SavingAgain): ...


class TestSavingTogether(OnAServer, contract.SavingTogether): ...


class TestSnapshotHistory(OnAServer, contract.SnapshotHistory):
    @pytest.fixture
    def store(self, make_store: MakeStore) -> JetStreamEventStore:
        return make_store(snapshots_kept=3)


class TestConsumerObjects(OnAServer, contract.ConsumerObjects): ...


class TestDeadLetters(OnAServer, contract.DeadLetters): ...


class TestDraining(OnAServer, contract.Draining): ...


class TestEndingConsumptions(OnAServer, contract.EndingConsumptions): ...


class TestEndingRunners(OnAServer, contract.EndingRunners): ...


class TestFailingHandlers(OnAServer, contract.FailingHandlers): ...


class TestHandlingInOrder(OnAServer, contract.HandlingInOrder): ...


class TestMakingConsumers(OnAServer, contract.MakingConsumers): ...


class TestSettling(OnAServer, contract.Settling): ...


class TestSharingConsumers(OnAServer, contract.SharingConsumers): ...


class TestWaitingForConsumers(OnAServer, contract.WaitingForConsumers): ...


class TestSnapshots(OnAServer, contract.Snapshots): ...


class TestTelling(OnAServer, contract.Telling): ...


class TestTyped(OnAServer, contract.Typed):
    @pytest.fixture
    def store(self, make_store: MakeStore, types: EventTypes) -> JetStreamEventStore:
        return make_store(types=types)

    def test_another_node_reads_them(self, store: JetStreamEventStore, make_store: MakeStore) -> None:
        self.fill(store)
        for way in contract.WAYS.values():
            assert [one.value for one in way(make_store(types=typed()))][2:] == [Placed(3, "CHF"), Cancelled()]
            assert type(way(make_store())[0]) is Event


class TestTypedConsumers(contract.TypedConsumers):
    @pytest.fixture
    def store(self, make_store: MakeStore) -> JetStreamEventStore:
        return make_store(types=typed())


class TestUntyped(OnAServer, contract.Untyped): ...
