"""The first connection: awaited by the first use, or by nobody who need not."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Thread
from typing import Any

import pytest

from aether_sync import (
    ANY_VERSION,
    AetherError,
    BusClosedError,
    ConnectError,
    Connection,
    DeadlineExceededError,
    DisconnectedError,
    InMemoryEventStore,
    InvalidOptionError,
    JetStreamEventStore,
    NATSEventBus,
    NATSServer,
    PublishTimeoutError,
    Snapshot,
)

from ..support.common import PATIENCE, UNIT, eventually, first_of, make_event, numbers, run_threads
from ..support.fake_server import FakeServer
from ..support.inside import has_engine, link_of, slot_of

MakeBus = Callable[..., NATSEventBus]
MakeStore = Callable[..., JetStreamEventStore]

SHORT = 0.15 * UNIT  # seconds


@pytest.fixture(params=["nothing there", "a silent server"])
def away(request: pytest.FixtureRequest, free_port: int) -> Iterator[str]:
    """The URL of a server that is not there, or says nothing."""
    if request.param == "nothing there":
        yield f"nats://127.0.0.1:{free_port}"
        return
    with FakeServer() as silent:
        silent.silence = 1_000.0
        yield silent.url


@pytest.fixture
def url(free_port: int) -> str:
    """The URL of a server that is not there yet."""
    return f"nats://127.0.0.1:{free_port}"


@contextmanager
def takes(least: float, most: float = PATIENCE) -> Iterator[None]:
    """What is done within takes so many seconds."""
    start = time.monotonic()
    yield
    assert least <= time.monotonic() - start < most


def at_once() -> Any:
    """What is done within does not wait for a connection."""
    return takes(0, PATIENCE / 4)


def everything_that_asks(store: JetStreamEventStore) -> list[Callable[..., object]]:
    """All that a store does with a server."""
    event = make_event(actor_id="a")
    consumer = store.consumer("c")
    return [
        store.start,
        partial(store.save_event, event.replace(version=1)),
        partial(store.save_events, [event.replace(version=1), event.replace(version=1, actor_id="b", id="other")]),
        partial(store.append, "a", event, expected_version=0),
        partial(store.append, "a", event, expected_version=ANY_VERSION),
        partial(store.get_events, "a"),
        lambda **options: next(store.iter_events("a", **options)),
        partial(store.get_events_with_errors, "a"),
        partial(store.read_together, "a", "b"),
        partial(store.get_latest_version, "a"),
        store.last_sequence,
        store.actors,
        partial(store.save_snapshot, Snapshot(actor_id="a", version=1, state={})),
        partial(store.get_latest_snapshot, "a"),
        partial(store.load, "a"),
        store.follow,
        consumer.iterate,
        partial(consumer.iterate, dead_letters=True),
        partial(consumer.run, print),
        partial(consumer.wait_for, 1),
        consumer.state,
        consumer.dead_letters,
        partial(consumer.discard_dead_letter, 1),
        consumer.delete,
        store.consumers,
    ]


ASKING = len(everything_that_asks(JetStreamEventStore()))


# -- in the background


@pytest.mark.fault
class TestInTheBackground:
    @pytest.fixture
    def bus(self, make_bus: MakeBus, away: str) -> Iterator[NATSEventBus]:
        bus = make_bus(away, connect="background", connect_timeout=PATIENCE)
        yield bus
        bus.close(timeout=0)

    def test_publishing_and_with_wait_for_nothing(self, make_bus: MakeBus, away: str) -> None:
        bus = make_bus(away, connect="background", connect_timeout=PATIENCE)
        with at_once():
            with bus:
                for n in range(3):
                    bus.publish("n", make_event(n))
                bus.publish_many("n", [make_event(3), make_event(4)])
                assert not bus.is_connected
                assert bus.metrics().outbox_events == 5
                report = bus.close(timeout=SHORT)
            assert report.unsent == 5

    def test_what_is_published_goes_when_there_is_a_server(self, make_bus: MakeBus, url: str, free_port: int) -> None:
        bus = make_bus(url, connect="background")
        with at_once():
            bus.publish("n", make_event(1))
        with NATSServer(port=free_port):
            bus.flush(PATIENCE)
            assert bus.metrics().confirmed == 1
            bus.close()

    def test_the_outbox_is_the_bound(self, make_bus: MakeBus, away: str) -> None:
        bus = make_bus(away, connect="background", connect_timeout=PATIENCE, outbox_events=1, publish_timeout=SHORT)
        bus.publish("n", make_event())
        with takes(SHORT), pytest.raises(PublishTimeoutError, match="not connected to"):
            bus.publish("n", make_event())
        bus.close(timeout=0)

    def test_who_wants_an_error_gets_it(self, make_bus: MakeBus, away: str) -> None:
        bus = make_bus(away, connect="background", connect_timeout=PATIENCE, on_disconnect="raise")
        with at_once(), pytest.raises(DisconnectedError, match="nothing was published: not connected to"):
            bus.publish("n", make_event())
        bus.close()

    def test_what_needs_the_server_waits_its_own_time(self, bus: NATSEventBus) -> None:
        bus.publish("n", make_event())
        with takes(SHORT), pytest.raises(DeadlineExceededError, match=r"within .*not connected to"):
            bus.subscribe("n", timeout=SHORT)
        with takes(SHORT), pytest.raises(DeadlineExceededError, match=r"1 event not confirmed.*not connected to"):
            bus.flush(timeout=SHORT)
        with takes(SHORT):
            assert not bus.wait_connected(SHORT)

    def test_a_start_waits_for_the_first_attempt(self, make_bus: MakeBus, away: str) -> None:
        bus = make_bus(away, connect="background", connect_timeout=SHORT)
        with takes(SHORT * 0.9), pytest.raises(ConnectError, match="not connected to"):
            bus.publish("n", make_event())  # which begins the attempt
            bus.start()
        with at_once():
            bus.start()
        bus.close(timeout=0)

    def test_a_subscription_is_confirmed_when_there_is_a_server(
        self, make_bus: MakeBus, url: str, free_port: int
    ) -> None:
        with NATSServer(port=free_port), make_bus(url, connect="background") as bus:
            with bus.subscribe("n", timeout=PATIENCE) as events:
                make_bus(url).publish("n", make_event(1))
                assert numbers([events.get(timeout=PATIENCE)]) == [1]
            bus.close()

    def test_a_bus_that_keeps_a_store_waits_for_nothing(self, make_bus: MakeBus, away: str) -> None:
        options: dict[str, Any] = {"store": InMemoryEventStore(), "namespace": "n"}
        with at_once(), make_bus(away, connect="background", connect_timeout=PATIENCE, **options) as bus:
            bus.publish("m", make_event())
            bus.close(timeout=0)

    def test_a_connection_may_be_shared(self, away: str) -> None:
        connection = Connection(away, connect="background", connect_timeout=PATIENCE)
        with at_once(), connection, NATSEventBus(connection) as bus:
            bus.publish("n", make_event())
            connection.close(timeout=0)

    @pytest.mark.parametrize("away", first_of(["a silent server", "nothing there"]), indirect=True)
    def test_a_store_waits_its_own_time(self, make_store: MakeStore, away: str) -> None:
        def asks(place: int) -> None:
            store = make_store(away, connect="background", connect_timeout=PATIENCE)
            work = everything_that_asks(store)[place]
            with at_once(), pytest.raises(ConnectError, match="not connected to"):
                work(timeout=0)
            for _ in range(2):
                with takes(SHORT), pytest.raises(ConnectError, match="not connected to"):
                    work(timeout=SHORT)

        run_threads(*(partial(asks, place) for place in range(ASKING)))

    def test_a_store_that_waits_gets_its_answer(self, make_store: MakeStore, url: str, free_port: int) -> None:
        store = make_store(url, connect="background", connect_timeout=0.1)
        with pytest.raises(ConnectError):
            store.get_events("a", timeout=SHORT)
        with NATSServer(port=free_port):
            store.save_events([make_event(actor_id="a", version=1)], timeout=PATIENCE)
            store.close()

    @pytest.mark.parametrize("is_over", [False, True])
    def test_a_refused_user_is_told_when_he_asks(
        self, make_bus: MakeBus, caplog: pytest.LogCaptureFixture, is_over: bool
    ) -> None:
        with NATSServer(config='authorization: {user: "u", password: "p"}') as server:
            bus = make_bus(server.url, connect="background", connect_timeout=PATIENCE, user="u", password="wrong")
            bus.publish("n", make_event())
            if is_over:
                eventually(lambda: "refuses" in caplog.text, "the end of the attempt")
            with at_once(), pytest.raises(ConnectError, match="refuses these credentials"):
                bus.start()
            bus.start()  # it has been told
            bus.close(timeout=0)

    def test_a_user_who_was_refused_and_is_let_in_by_now_is_told_of_no_failure(
        self, make_bus: MakeBus, caplog: pytest.LogCaptureFixture
    ) -> None:
        with NATSServer(config='authorization: {user: "u", password: "old"}') as server:
            bus = make_bus(server.url, connect="background", user="u", password="new")
            bus.publish("n", make_event())
            eventually(lambda: "refuses" in caplog.text, "the end of the attempt")
            server.reload('authorization: {user: "u", password: "new"}')
            assert bus.wait_connected(PATIENCE)
            bus.start()
            assert bus.close(PATIENCE)


@pytest.mark.fault
class TestAServerThatAppearsLater:
    """Each call here begins before there is a server, and ends when there is one; nobody calls again."""

    @pytest.fixture
    def appear(self, free_port: int) -> Iterator[Callable[..., NATSServer]]:
        """Start the server once the first attempts of some owners of connections have failed."""

        def has_failed(owner: Any) -> bool:
            return has_engine(owner) and "connection refused" in link_of(owner).reason

        def appear(*owners: Any) -> NATSServer:
            eventually(lambda: all(map(has_failed, owners)), "the end of the first attempts")
            return stack.enter_context(NATSServer(port=free_port))

        with ExitStack() as stack:
            yield appear

    def test_for_a_connection(self, url: str, appear: Callable[..., NATSServer]) -> None:
        with at_once(), Connection(url, connect="background", connect_timeout=SHORT) as connection:
            assert not connection.is_connected
            assert connection.server_info() == {}
        connection = Connection(url, connect="background", connect_timeout=SHORT)
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(connection.wait_connected, PATIENCE)
            server = appear(connection)
            assert waiting.result(PATIENCE)
        with at_once():
            connection.start()  # the first attempt failed, which is no error of a connection that there is
            connection.flush(PATIENCE)
        assert connection.server_info()["server_name"] == server.name
        assert connection.reconnects == 0
        assert connection.close(PATIENCE)

    def test_for_a_bus(self, make_bus: MakeBus, url: str, appear: Callable[..., NATSServer]) -> None:
        bus, other = (make_bus(url, connect="background", connect_timeout=SHORT) for _ in range(2))
        with at_once():
            other.publish("n", make_event(1))
        with ThreadPoolExecutor() as pool:
            subscribing = pool.submit(bus.subscribe, "n", timeout=PATIENCE)
            flushing = pool.submit(other.flush, PATIENCE)
            appear(bus, other)
            flushing.result(PATIENCE)
            assert other.metrics().confirmed == 1
            with subscribing.result(PATIENCE) as events:
                other.publish("n", make_event(2))
                eventually(lambda: 2 in numbers(events.get_batch(2, timeout=PATIENCE)), "the second event")
        assert bus.close(PATIENCE)
        assert other.close(PATIENCE)

    def test_for_a_store(self, make_store: MakeStore, url: str, appear: Callable[..., NATSServer]) -> None:
        stores = [make_store(url, connect="background", connect_timeout=SHORT) for _ in range(4)]
        with at_once(), stores.pop():  # which nobody uses
            pass
        writer, reader, worker = stores
        with ThreadPoolExecutor() as pool:
            append = partial(writer.append, expected_version=ANY_VERSION, timeout=PATIENCE)
            written = pool.submit(append, "a", make_event(1, actor_id="a"))
            followed = pool.submit(reader.follow, timeout=PATIENCE)
            consumed = pool.submit(worker.consumer("c").iterate, timeout=PATIENCE)
            appear(*stores)
            assert [one.event.version for one in written.result(PATIENCE)] == [1]
            with followed.result(PATIENCE) as follower, consumed.result(PATIENCE) as deliveries:
                assert numbers([follower.get(timeout=PATIENCE).event]) == [1]
                delivery = deliveries.get(timeout=PATIENCE)
                assert numbers([delivery.event]) == [1]
                delivery.ack(confirm=True)
        for store in stores:
            assert store.close()


def test_an_option_that_is_none() -> None:
    with pytest.raises(InvalidOptionError, match="connect must be one of 'wait', 'background', not 'later'"):
        NATSEventBus(connect="later")  # type: ignore[arg-type]


# -- awaited


@pytest.mark.fault
class TestAwaited:
    def test_the_first_use_waits_and_no_other_does(self, make_bus: MakeBus, away: str) -> None:
        bus = make_bus(away, connect_timeout=SHORT)
        with takes(SHORT * 0.9), pytest.raises(ConnectError, match="not connected to"):
            bus.publish("n", make_event())
        with at_once():
            bus.publish("n", make_event())
        with takes(SHORT), pytest.raises(DeadlineExceededError, match="not connected to"):
            bus.subscribe("n", timeout=SHORT)
        bus.close(timeout=0)

    @pytest.mark.parametrize("away", first_of(["a silent server", "nothing there"]), indirect=True)
    @pytest.mark.parametrize("connect_timeout", first_of([SHORT / 2, PATIENCE]))
    def test_a_store_says_the_same_the_first_and_the_second_time(
        self, make_store: MakeStore, away: str, connect_timeout: float
    ) -> None:
        seen: set[tuple[type[AetherError], str]] = set()

        def asks(place: int) -> None:
            work = everything_that_asks(make_store(away, connect_timeout=connect_timeout))[place]
            for _ in range(2):
                with takes(SHORT / 2, PATIENCE), pytest.raises(AetherError) as caught:
                    work(timeout=SHORT)
                seen.add((type(caught.value), str(caught.value)))

        run_threads(*(partial(asks, place) for place in range(ASKING)))
        assert {kind for kind, _ in seen} == {ConnectError}
        for _, text in seen:  # one reason, but for a machine that is so slow that a refusal comes too late
            assert "not connected to" in text
            assert "nothing listens there" in text or "no answer" in text

    def test_a_store_waits_for_a_server_that_comes(self, make_store: MakeStore, url: str, free_port: int) -> None:
        store = make_store(url, connect_timeout=0.1)
        with pytest.raises(ConnectError):
            store.get_events("a")
        with NATSServer(port=free_port):
            assert store.get_events("a", timeout=PATIENCE) == []
            store.close()

    def test_a_store_that_comes_late_to_the_first_attempt_waits_its_own_time(
        self, make_store: MakeStore, away: str
    ) -> None:
        with Connection(away, connect="background", connect_timeout=2 * SHORT) as connection:
            slot_of(connection).is_awaited = True  # as if another thread had begun, and did wait
            time.sleep(1.5 * SHORT)
            store = make_store(connection)
            for _ in range(2):
                with takes(SHORT), pytest.raises(ConnectError, match="not connected to"):
                    store.load("a", timeout=SHORT)
            store.close()

    def test_a_store_that_is_refused_says_so_at_once_each_time(self, make_store: MakeStore) -> None:
        with NATSServer(config='authorization: {user: "u", password: "p"}') as server:
            for connect in ("wait", "background"):
                store = make_store(server.url, connect=connect, connect_timeout=PATIENCE, user="u", password="wrong")
                for _ in range(3):
                    with at_once(), pytest.raises(ConnectError, match="refuses these credentials"):
                        store.load("a", timeout=PATIENCE)
                store.close()

    def test_a_close_releases_who_waits(self, make_store: MakeStore, away: str) -> None:
        store = make_store(away, connect_timeout=0.1)
        errors: list[Exception] = []

        def read() -> None:
            try:
                store.get_events("a", timeout=PATIENCE)
            except AetherError as error:
                errors.append(error)

        read()  # the first attempt
        waiting = Thread(target=read)
        waiting.start()
        eventually(lambda: has_engine(store) and link_of(store).changed, "a thread that waits")
        with at_once():
            store.connection.close()
            waiting.join(PATIENCE)
        assert [type(error) for error in errors] == [ConnectError, BusClosedError]
