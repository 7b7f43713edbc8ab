"""The persistence module for ``eventsourcing``: that package's own tests, in memory and on a server, and our own."""

import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID, uuid4

import eventsourcing.cryptography
import pytest
from eventsourcing.application import AggregateNotFoundError, Application, ProcessingEvent
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.domain import Aggregate, DomainEventProtocol, event
from eventsourcing.persistence import (
    DataError,
    InfrastructureFactoryError,
    IntegrityError,
    InterfaceError,
    Notification,
    NotSupportedError,
    OperationalError,
    PersistenceError,
    ProgrammingError,
    StoredEvent,
    Tracking,
)
from eventsourcing.projection import (
    ApplicationSubscription,
    EventSourcedProjectionRunner,
    Projection,
    ProjectionRunner,
)
from eventsourcing.sqlite import SQLiteTrackingRecorder
from eventsourcing.system import (
    MultiThreadedRunner,
    NewMultiThreadedRunner,
    NewSingleThreadedRunner,
    ProcessApplication,
    Runner,
    SingleThreadedRunner,
    System,
)
from eventsourcing.utils import Environment, get_topic

with pytest.MonkeyPatch.context() as patch:  # the cipher of its tests, by the library that is installed here anyway
    patch.setitem(sys.modules, "eventsourcing.cipher", eventsourcing.cryptography)
    from eventsourcing.tests.application import ApplicationTestCase, ExampleApplicationTestCase
    from eventsourcing.tests.persistence import (
        AggregateRecorderTestCase,
        ApplicationRecorderTestCase,
        InfrastructureFactoryTestCase,
        NonInterleavingNotificationIDsBaseCase,
        ProcessRecorderTestCase,
        TrackingRecorderTestCase,
    )

import aether_sync
from aether_sync import (
    Event,
    NATSServer,
)
from aether_sync.contrib.eventsourcing import (
    AetherAggregateRecorder,
    AetherApplicationRecorder,
    AetherProcessRecorder,
    AetherSnapshotRecorder,
    AetherTrackingRecorder,
    Factory,
)
from aether_sync.contrib.eventsourcing._errors import translated

from ..support.common import PATIENCE, eventually, first_of, run_threads
from ..support.inside import engine_of

MODULE = "aether_sync.contrib.eventsourcing"


@pytest.fixture(autouse=True)
def _cipher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "eventsourcing.cipher", eventsourcing.cryptography)


@pytest.fixture(params=["memory", "jetstream"])
def settings(request: pytest.FixtureRequest, server: NATSServer, prefix: str) -> dict[str, str]:
    """The environment of an application, on either store."""
    return settings_for(request.param, server, prefix)


def settings_for(kind: str, server: NATSServer, prefix: str) -> dict[str, str]:
    where = {} if kind == "memory" else {"NATS_URL": server.url, "AETHER_SYNC_STREAM": prefix}
    return {"PERSISTENCE_MODULE": MODULE, "AETHER_SYNC_STORE": kind, "AETHER_SYNC_TIMEOUT": str(PATIENCE)} | where


@pytest.fixture
def factory(settings: dict[str, str]) -> Iterator[Factory]:
    with closing_factory(settings) as made:
        yield made


@contextmanager
def closing_factory(settings: dict[str, str], name: str = "") -> Iterator[Factory]:
    made = Factory(Environment(name, settings))
    with closing(made):
        yield made


# -- the tests of that package, on both stores


class OnAStore:
    """Sets the environment as a user does, and makes recorders by a factory."""

    kind: ClassVar[str]

    @pytest.fixture(autouse=True)
    def _environment(
        self, server: NATSServer, prefix: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
    ) -> Iterator[None]:
        self.env = Environment(env=settings_for(self.kind, server, prefix))  # of one test: a class is made for each
        type(self).env = self.env  # type: ignore[misc]  # of the tests of projections
        for name, value in self.env.items():
            monkeypatch.setenv(name, value)
        self.made = Factory(self.env)
        yield
        self.made.close()


class InMemory(OnAStore):
    kind = "memory"


class OnAServer(OnAStore):
    kind = "jetstream"


class Aggregates(OnAStore, AggregateRecorderTestCase):
    __test__ = False

    def create_recorder(self) -> Any:
        return self.made.aggregate_recorder()


class TestAggregatesInMemory(InMemory, Aggregates):
    __test__ = True


class TestAggregatesOnAServer(OnAServer, Aggregates):
    __test__ = True

    @pytest.mark.slow
    def test_performance(self) -> None:
        super().test_performance()


class Applications(OnAStore, ApplicationRecorderTestCase[AetherApplicationRecorder]):
    __test__ = False

    def create_recorder(self) -> Any:
        return self.made.application_recorder()

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestApplicationsInMemory(InMemory, Applications):
    __test__ = True


class TestApplicationsOnAServer(OnAServer, Applications):
    __test__ = True

    @pytest.mark.slow
    def test_performance(self) -> None:
        super().test_performance()

    @pytest.mark.slow
    def test_concurrent_no_conflicts(self) -> None:  # type: ignore[override]
        super().test_concurrent_no_conflicts()

    @pytest.mark.slow
    def test_concurrent_throughput(self) -> None:
        super().test_concurrent_throughput()


class Trackings(OnAStore, TrackingRecorderTestCase):
    __test__ = False

    def create_recorder(self) -> Any:
        return self.made.tracking_recorder()


class TestTrackingsInMemory(InMemory, Trackings):
    __test__ = True


class TestTrackingsOnAServer(OnAServer, Trackings):
    __test__ = True


class Processes(OnAStore, ProcessRecorderTestCase):
    __test__ = False

    def create_recorder(self) -> Any:
        return self.made.process_recorder()


class TestProcessesInMemory(InMemory, Processes):
    __test__ = True


class TestProcessesOnAServer(OnAServer, Processes):
    __test__ = True

    @pytest.mark.slow
    def test_performance(self) -> None:
        super().test_performance()


class NotificationIDs(OnAStore, NonInterleavingNotificationIDsBaseCase):
    __test__ = False

    def create_recorder(self) -> Any:
        return self.made.application_recorder()


class TestNotificationIDsInMemory(InMemory, NotificationIDs):
    __test__ = True


class TestNotificationIDsOnAServer(OnAServer, NotificationIDs):
    __test__ = True


class OwnTracking(AetherTrackingRecorder): ...


class Factories(OnAStore, InfrastructureFactoryTestCase[Factory]):
    __test__ = False

    def expected_factory_class(self) -> type[Factory]:
        return Factory

    def expected_aggregate_recorder_class(self) -> type[AetherAggregateRecorder]:
        return AetherAggregateRecorder

    def expected_application_recorder_class(self) -> type[AetherApplicationRecorder]:
        return AetherApplicationRecorder

    def expected_tracking_recorder_class(self) -> type[AetherTrackingRecorder]:
        return AetherTrackingRecorder

    def tracking_recorder_subclass(self) -> type[AetherTrackingRecorder]:
        return OwnTracking

    def expected_process_recorder_class(self) -> type[AetherProcessRecorder]:
        return AetherProcessRecorder


class TestFactoriesInMemory(InMemory, Factories):
    __test__ = True


class TestFactoriesOnAServer(OnAServer, Factories):
    __test__ = True


class ExampleApplications(OnAStore, ExampleApplicationTestCase):
    __test__ = False
    expected_factory_topic = get_topic(Factory)


class TestExampleApplicationInMemory(InMemory, ExampleApplications):
    __test__ = True


class TestExampleApplicationOnAServer(OnAServer, ExampleApplications):
    __test__ = True


class AnyApplication(OnAStore, ApplicationTestCase):
    __test__ = False

    @pytest.mark.filterwarnings("default::DeprecationWarning")  # which it catches, if it is none
    def test_application_log(self) -> None:
        super().test_application_log()


class TestAnyApplicationInMemory(InMemory, AnyApplication):
    __test__ = True


class TestAnyApplicationOnAServer(OnAServer, AnyApplication):
    __test__ = True

    @pytest.mark.slow
    def test_check_aggregate_fastforwarding_blocking(self) -> None:
        super().test_check_aggregate_fastforwarding_blocking()

    @pytest.mark.slow
    def test_check_aggregate_fastforwarding_nonblocking(self) -> None:
        super().test_check_aggregate_fastforwarding_nonblocking()


try:
    from eventsourcing.tests.projection import (
        AggregateEventCountersProjectionTestCase,
        EventCountersView,
        EventCountersViewTestCase,
        EventSourcedProjectionTestCase,
    )
except ModuleNotFoundError:  # the oldest versions do not have these tests
    ...
else:

    class CountersInAStore(AetherTrackingRecorder, EventCountersView):
        """Each count is the version of an actor."""

        def get_created_event_counter(self) -> int:
            return self.store.get_latest_version("counter-created")

        def get_subsequent_event_counter(self) -> int:
            return self.store.get_latest_version("counter-subsequent")

        def incr_created_event_counter(self, tracking: Tracking) -> None:
            self._count("counter-created", tracking)

        def incr_subsequent_event_counter(self, tracking: Tracking) -> None:
            self._count("counter-subsequent", tracking)

        def _count(self, actor_id: str, tracking: Tracking) -> None:
            version = self.store.get_latest_version(actor_id) + 1
            self.save_with_tracking([Event(event_type="Counted", actor_id=actor_id, version=version)], tracking)

    class Views(OnAStore, EventCountersViewTestCase):
        __test__ = False

        def construct_event_counters_view(self) -> CountersInAStore:
            return CountersInAStore(self.made.datastore)

    class TestViewsInMemory(InMemory, Views):
        __test__ = True

    class TestViewsOnAServer(OnAServer, Views):
        __test__ = True

    class PatientCounters(CountersInAStore):
        """Waits as long as a busy machine takes, where the tests wait for a second."""

        def wait(
            self,
            application_name: str,
            notification_id: int | None,
            timeout: float = 1.0,
            interrupt: threading.Event | None = None,
        ) -> None:
            super().wait(application_name, notification_id, timeout * PATIENCE, interrupt)

    class Projections(OnAStore, AggregateEventCountersProjectionTestCase):
        __test__ = False
        view_class = CountersInAStore

        def test_event_counters_projection(self) -> None:
            self.view_class = PatientCounters
            super().test_event_counters_projection()

    class TestProjectionInMemory(InMemory, Projections):
        __test__ = True

    class TestProjectionOnAServer(OnAServer, Projections):
        __test__ = True

    class PatientRunner(EventSourcedProjectionRunner[Any, Any]):
        def wait(self, notification_id: int | None, timeout: float = 1.0) -> None:
            super().wait(notification_id, timeout * PATIENCE)

    class EventSourcedProjections(OnAStore, EventSourcedProjectionTestCase):
        __test__ = False

        @pytest.fixture(autouse=True)
        def _patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
            monkeypatch.setattr("eventsourcing.tests.projection.EventSourcedProjectionRunner", PatientRunner)

    class TestEventSourcedProjectionInMemory(InMemory, EventSourcedProjections):
        __test__ = True

    class TestEventSourcedProjectionOnAServer(OnAServer, EventSourcedProjections):
        __test__ = True

    del AggregateEventCountersProjectionTestCase, EventCountersViewTestCase, EventSourcedProjectionTestCase

# What is imported is collected, too, unless nothing of this name is left here.
del AggregateRecorderTestCase, ApplicationRecorderTestCase, InfrastructureFactoryTestCase
del NonInterleavingNotificationIDsBaseCase, ProcessRecorderTestCase, TrackingRecorderTestCase
del ApplicationTestCase, ExampleApplicationTestCase


# -- settings


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("AETHER_SYNC_STORE", "postgres", "'postgres' is not 'jetstream' or 'memory'"),
        ("AETHER_SYNC_TIMEOUT", "soon", "'soon' is not seconds above 0"),
        ("AETHER_SYNC_TIMEOUT", "0", "'0' is not"),
        ("AETHER_SYNC_TIMEOUT", "nan", "'nan' is not"),
        ("AETHER_SYNC_REPLICAS", "6", "'6' is not a number from 1 to 5"),
        ("AETHER_SYNC_STREAM", "e" * 300, "bytes long"),
        ("AETHER_SYNC_NAMESPACE", "n" * 300, "bytes long"),
        ("NATS_URL", "http://there", "'http://there'"),
        ("NATS_CREDS", "/nowhere/creds", "/nowhere/creds"),
        ("NATS_CA", "/nowhere/ca.pem", "/nowhere/ca.pem"),
        ("NATS_CONTEXT", "nowhere", "'nowhere'"),
    ],
)
@pytest.mark.parametrize("before", ["", "SHOP_"])
def test_a_wrong_setting_is_named(name: str, value: str, says: str, before: str) -> None:
    with pytest.raises(EnvironmentError, match=f"^{before}{name}: ") as caught:
        Factory(Environment("Shop", {before + name: value}))
    assert says in str(caught.value)


def test_a_wrong_setting_of_the_process_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_TOKEN", "s3cret")
    monkeypatch.setenv("NATS_USER", "shop")
    with pytest.raises(EnvironmentError, match="NATS_USER and NATS_TOKEN contradict"):
        Factory(None)


def test_no_secret_is_shown() -> None:
    with pytest.raises(EnvironmentError, match="NATS_PASSWORD") as caught:
        Factory({"NATS_PASSWORD": "s3cret", "NATS_TOKEN": "s3cret"})
    assert "s3cret" not in str(caught.value)


def test_what_is_said_of_an_application_comes_first(server: NATSServer, prefix: str) -> None:
    settings = {
        "NATS_URL": "nats://127.0.0.1:1",
        "SHOP_NATS_URL": server.url,
        "SHOP_AETHER_SYNC_STREAM": prefix,
        "AETHER_SYNC_STREAM": "",
        "AETHER_SYNC_TIMEOUT": f" {PATIENCE} ",
    }
    with closing_factory(settings, "Shop") as factory:
        recorder = factory.application_recorder()
        assert recorder.insert_events([stored()]) == [1]
        assert factory.datastore.store().stream == f"Shop={prefix}"  # type: ignore[attr-defined]


def test_a_token_of_an_application_stands_for_the_user_of_the_process(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with NATSServer(config="authorization { token: t0ken }") as server:
        monkeypatch.setenv("NATS_USER", "shop")
        monkeypatch.setenv("NATS_URL", server.url)
        settings = {"NATS_USER": "shop", "NATS_URL": server.url, "SHOP_NATS_TOKEN": "t0ken"}
        with closing_factory(settings | {"AETHER_SYNC_STREAM": prefix}, "Shop") as factory:
            assert factory.application_recorder().max_notification_id() is None


@pytest.mark.parametrize("name", ["A shop, with . and *", "Läden", "a=b/c"])
def test_any_name_of_an_application_will_do(settings: dict[str, str], name: str) -> None:
    with closing_factory(settings, name) as factory:
        assert factory.application_recorder().insert_events([stored()]) == [1]


def test_applications_share_a_stream_only_if_they_are_told_to(server: NATSServer, prefix: str) -> None:
    settings = settings_for("jetstream", server, prefix)
    with closing_factory(settings, "One") as one, closing_factory(settings, "Two") as two:
        assert one.application_recorder().insert_events([stored()]) == [1]
        assert two.application_recorder().insert_events([stored()]) == [1]
    settings |= {"AETHER_SYNC_NAMESPACE": "all"}
    with closing_factory(settings, "One") as one, closing_factory(settings, "Two") as two:
        assert one.application_recorder().insert_events([stored()]) == [1]
        assert two.application_recorder().insert_events([stored(0, "two")]) == [2]


class OwnApplication(AetherApplicationRecorder): ...


class OwnProcess(AetherProcessRecorder): ...


def test_recorders_of_own_classes() -> None:
    topics = {
        "APPLICATION_RECORDER_TOPIC": get_topic(OwnApplication),
        "PROCESS_RECORDER_TOPIC": get_topic(OwnProcess),
        "TRACKING_RECORDER_TOPIC": get_topic(OwnTracking),
    }
    factory = Factory({"AETHER_SYNC_STORE": "memory"} | topics)
    assert type(factory.application_recorder()) is OwnApplication
    assert type(factory.process_recorder()) is OwnProcess
    assert type(factory.tracking_recorder()) is OwnTracking


@pytest.mark.parametrize("topic", ["nowhere:Recorder", get_topic(OwnTracking), "aether_sync:flush_logs"])
def test_a_recorder_of_a_wrong_class(topic: str) -> None:
    factory = Factory({"AETHER_SYNC_STORE": "memory", "APPLICATION_RECORDER_TOPIC": topic})
    with pytest.raises(EnvironmentError, match=f"APPLICATION_RECORDER_TOPIC: '{topic}'"):
        factory.application_recorder()


# -- recorders


def stored(version: int = 0, originator_id: UUID | str = "one", topic: str = "topic", state: bytes = b"{}") -> Any:
    return StoredEvent(originator_id, version, topic, state)


@pytest.mark.parametrize(
    "originator_id",
    [UUID(int=7), str(UUID(int=7)), "a.b", "a%2Eb", "*", ">", "a b", "ä", "order-1", "uuid-7", "%", "a" * 500],
)
def test_ids_and_states_come_back_as_they_were(factory: Factory, originator_id: UUID | str) -> None:
    recorder = factory.application_recorder()
    states = [b"", b'{"a":"\xc3\xa4\\u0000"}', bytes(range(256)), b"\0\x1f\x7f", b"\xed\xa0\x80", b"x" * 100_000]
    events = [stored(version, originator_id, state=state) for version, state in enumerate(states)]
    assert recorder.insert_events(events) == [1, 2, 3, 4, 5, 6]
    assert recorder.select_events(originator_id) == events
    notifications = recorder.select_notifications(1, 10)
    assert [(one.originator_id, one.originator_version, one.state) for one in notifications] == [
        (originator_id, one.originator_version, one.state) for one in events
    ]
    assert {type(one.originator_id) for one in notifications} == {type(originator_id)}


def test_a_uuid_and_its_text_are_one_aggregate(factory: Factory) -> None:
    recorder = factory.application_recorder()
    recorder.insert_events([stored(0, UUID(int=7))])
    with pytest.raises(IntegrityError):
        recorder.insert_events([stored(0, str(UUID(int=7)))])
    assert recorder.select_events(str(UUID(int=7))) == [stored(0, str(UUID(int=7)))]


def test_json_can_be_read_by_others(factory: Factory) -> None:
    factory.application_recorder().insert_events([stored(state='{"what":"für"}'.encode())])
    (event,) = factory.datastore.store().get_events("aggregate-one")
    assert event.data == {"originator": "text", "state": '{"what":"für"}'}
    assert event.event_type == "topic"


def test_pages_of_an_aggregate(factory: Factory) -> None:
    recorder = factory.application_recorder()
    recorder.insert_events([stored(version) for version in range(5)])

    def versions(**wanted: Any) -> list[int]:
        return [one.originator_version for one in recorder.select_events("one", **wanted)]

    assert versions(gt=-1) == versions(gt=-100) == [0, 1, 2, 3, 4]
    assert versions(gt=1, lte=3) == [2, 3]
    assert versions(desc=True, limit=2) == [4, 3]
    assert versions(lte=3, desc=True, limit=1) == [3]
    assert versions(limit=0) == versions(lte=-1) == versions(lte=-100) == versions(gt=4) == versions(gt=3, lte=2) == []


def test_pages_of_notifications(factory: Factory) -> None:
    recorder = factory.application_recorder()
    recorder.insert_events([stored(version, topic=f"t{version % 2}") for version in range(6)])

    def ids(*args: Any, **wanted: Any) -> list[int]:
        return [one.id for one in recorder.select_notifications(*args, **wanted)]

    assert ids(None, 9) == ids(0, 9) == ids(-5, 9) == ids(1, 9) == ids(0, 9, inclusive_of_start=False)
    assert ids(3, 2) == [3, 4]
    assert ids(3, 2, inclusive_of_start=False) == [4, 5]
    assert ids(2, 9, 4) == [2, 3, 4]
    assert ids(2, 9, 4, ["t1"]) == [2, 4]
    assert ids(2, 9, None, ["t0", "t2"]) == [3, 5]
    assert ids(7, 9) == ids(1, 0) == ids(3, 9, 2) == ids(1, 9, 0) == ids(1, 9, None, ["t3"]) == []


def test_rare_topics_are_looked_for_section_by_section(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aether_sync.contrib.eventsourcing._recorders._SECTION", 7)
    recorder = factory.application_recorder()
    recorder.insert_events([stored(version, topic="rare" if version % 20 == 0 else "topic") for version in range(100)])
    found = recorder.select_notifications(2, 3, topics=["rare"])
    assert [one.id for one in found] == [21, 41, 61]
    assert [one.id for one in recorder.select_notifications(22, 9, 80, ["rare"])] == [41, 61]


def test_what_is_refused_leaves_nothing(factory: Factory) -> None:
    recorder = factory.process_recorder()
    recorder.insert_events([stored(5)], tracking=Tracking("up", 5))
    tracking = Tracking("up", 6)
    for refused, error in [
        ([stored(5)], IntegrityError),
        ([stored(3)], IntegrityError),
        ([stored(6), stored(6)], IntegrityError),
        ([stored(7), stored(6)], IntegrityError),
        ([stored(6), stored(-1, "two")], DataError),
        ([stored(6), stored(0, "two", topic="")], DataError),
        ([stored(6), stored(0, "two", topic="\ud800")], DataError),
        ([stored(6), stored(2**64, "two")], DataError),
        ([stored(version) for version in range(6, 1_007)], DataError),
    ]:
        with pytest.raises(error):
            recorder.insert_events(refused, tracking=tracking)
    for number in (5, 4, 0, -1, 2**63):
        with pytest.raises(DataError if number not in (4, 5) else IntegrityError):
            recorder.insert_events([stored(6)], tracking=Tracking("up", number))
    assert recorder.max_notification_id() == 1
    assert recorder.max_tracking_id("up") == 5
    assert recorder.insert_events([stored(version) for version in range(6, 1_005)], tracking=tracking) is not None


def test_an_event_that_is_too_large(server: NATSServer, prefix: str) -> None:
    with closing_factory(settings_for("jetstream", server, prefix)) as factory, pytest.raises(DataError):
        factory.application_recorder().insert_events([stored(state=b"x" * 2_000_000)])


def test_what_is_tracked_is_no_notification(factory: Factory) -> None:
    recorder = factory.process_recorder()
    for number in range(1, 4):
        found = recorder.insert_events([stored(number)], tracking=Tracking("upstream.app", 10 * number))
        assert found == [2 * number - 1]
    assert recorder.max_notification_id() == 5
    assert recorder.max_tracking_id("upstream.app") == 30
    assert recorder.max_tracking_id("upstream") is None
    assert [one.id for one in recorder.select_notifications(None, 10)] == [1, 3, 5]
    assert [one.id for one in recorder.select_notifications(1, 1, inclusive_of_start=False)] == [3]


def test_a_notification_takes_effect_once_whoever_is_first(factory: Factory) -> None:
    recorder = factory.process_recorder()
    done: list[int] = []

    def process(worker: int) -> None:
        for number in range(1, 11):
            try:
                recorder.insert_events([stored(number, f"of-{worker}")], tracking=Tracking("up", number))
            except IntegrityError:
                continue
            done.append(number)

    run_threads(*[lambda worker=worker: process(worker) for worker in range(4)])  # type: ignore[misc]
    assert sorted(done) == sorted(set(done))
    assert len(recorder.select_notifications(None, 100)) == len(done)
    assert recorder.max_tracking_id("up") == 10


def test_an_event_of_another_program_is_named(factory: Factory) -> None:
    recorder = factory.application_recorder()
    factory.datastore.store().save_event(Event(event_type="Done", actor_id="order-1", version=1))  # is none of ours
    assert recorder.max_notification_id() is None
    factory.datastore.store().save_event(Event(event_type="Done", actor_id="aggregate-x", version=1))
    with pytest.raises(DataError, match="of aggregate-x was not recorded by a recorder"):
        recorder.select_notifications(None, 10)
    with pytest.raises(DataError, match="of aggregate-x was not recorded by a recorder"):
        recorder.select_events("x")


def test_a_late_snapshot_is_not_kept_and_no_error(factory: Factory) -> None:
    recorder = factory.aggregate_recorder("snapshots")
    assert type(recorder) is AetherSnapshotRecorder
    assert recorder.insert_events([stored(20)]) is None
    assert recorder.insert_events([stored(10)]) is None
    with pytest.raises(IntegrityError):
        recorder.insert_events([stored(20)])
    with pytest.raises(IntegrityError):
        recorder.insert_events([stored(15), stored(30)])
    assert [one.originator_version for one in recorder.select_events("one")] == [20]
    assert factory.application_recorder().max_notification_id() is None


# -- subscriptions


def test_another_thread_stops_a_subscription(factory: Factory) -> None:
    recorder = factory.application_recorder()
    recorder.insert_events([stored()])
    subscription = recorder.subscribe()
    seen: list[Notification] = []
    thread = threading.Thread(target=lambda: seen.extend(subscription), daemon=True)
    thread.start()
    eventually(lambda: seen)
    subscription.stop()
    subscription.stop()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert list(subscription) == []


def test_closing_the_factory_ends_its_subscriptions(factory: Factory) -> None:
    recorder = factory.application_recorder()
    recorder.insert_events([stored()])
    subscription = recorder.subscribe()
    assert next(subscription).id == 1
    thread = threading.Thread(target=lambda: list(subscription), daemon=True)
    thread.start()
    factory.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_subscription_skips_what_it_does_not_want(factory: Factory) -> None:
    recorder = factory.process_recorder()
    for number in range(1, 7):
        recorder.insert_events([stored(number, topic=f"t{number % 2}")], tracking=Tracking("up", number))
    with recorder.subscribe(gt=2, topics=["t1"]) as subscription:
        assert [next(subscription).originator_version for _ in range(2)] == [3, 5]


def test_a_store_that_has_lost_what_was_processed_says_so(factory: Factory) -> None:
    recorder = factory.application_recorder()
    recorder.insert_events([stored()])
    with pytest.raises(OperationalError, match=r"ends at .* 7"):
        recorder.subscribe(gt=7)


# -- errors


@pytest.mark.parametrize("name", [name for name in aether_sync.errors.__all__ if name != "AetherError"])
def test_every_error_is_one_of_theirs(name: str) -> None:
    kind = getattr(aether_sync.errors, name)
    error = kind.__new__(kind)
    Exception.__init__(error, "what happened")
    if name == "VersionConflictError":
        error.__init__("one", 2, 3)
    with pytest.raises(PersistenceError) as caught, translated():
        raise error
    assert caught.value.__cause__ is error
    wanted = {
        "VersionConflictError": IntegrityError,
        "DuplicateIdError": IntegrityError,
        "InvalidEventError": DataError,
        "EventTooLargeError": DataError,
        "MalformedRecordError": DataError,
        "AtomicAppendUnsupportedError": NotSupportedError,
        "StoreClosedError": InterfaceError,
        "WrongThreadError": ProgrammingError,
        "UnknownOutcomeError": OperationalError,
        "DeadlineExceededError": OperationalError,
        "ConnectError": OperationalError,
        "StreamRegressionError": OperationalError,
    }
    assert type(caught.value) is wanted.get(name, type(caught.value))


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), translated():
        _ = 1 / 0


def test_a_server_that_is_away(free_port: int) -> None:
    settings = {"NATS_URL": f"nats://127.0.0.1:{free_port}", "AETHER_SYNC_TIMEOUT": "0.05"}
    with closing_factory(settings) as factory:
        recorder = factory.process_recorder()
        for call in (
            lambda: recorder.insert_events([stored()]),
            lambda: recorder.select_events("one"),
            lambda: recorder.select_notifications(None, 10),
            lambda: recorder.select_notifications(None, 10, topics=["t"]),
            lambda: recorder.max_notification_id(),
            lambda: recorder.max_tracking_id("up"),
            lambda: recorder.insert_tracking(Tracking("up", 1)),
            lambda: recorder.subscribe(),
        ):
            with pytest.raises(OperationalError):
                call()


# -- closing


def test_after_the_end(factory: Factory) -> None:
    recorder = factory.application_recorder()
    factory.close()
    factory.close()
    for call in (
        lambda: recorder.insert_events([stored()]),
        lambda: recorder.select_events("one"),
        lambda: recorder.subscribe(),
        lambda: factory.process_recorder(),
    ):
        with pytest.raises(InterfaceError):
            call()


def test_an_application_that_is_collected_closes_its_connection(
    settings: dict[str, str], recwarn: pytest.WarningsRecorder
) -> None:
    app = Application[UUID](settings)
    app.save(Aggregate())
    datastore = app.factory.datastore  # type: ignore[attr-defined]
    del app
    with pytest.raises(InterfaceError):
        datastore.store()
    view = Factory(settings).tracking_recorder()  # as the runner of a projection does: the factory is forgotten
    view.insert_tracking(Tracking("up", 1))
    del view
    assert not recwarn.list


def test_it_is_collected_on_the_thread_of_its_connection(server: NATSServer, prefix: str) -> None:
    factory = Factory(settings_for("jetstream", server, prefix))
    factory.application_recorder().insert_events([stored()])
    connection = factory.datastore._connection
    assert connection is not None
    ended = threading.Event()

    def collect() -> None:
        factory.close()
        ended.set()

    engine_of(connection).loop.call_soon(collect)
    assert ended.wait(PATIENCE)
    eventually(lambda: connection.closed)
    eventually(lambda: not [one for one in threading.enumerate() if one.name == "aether-eventsourcing-close"])


# -- applications


class Order(Aggregate):
    """The second version of its events has a currency."""

    class Placed(Aggregate.Created):
        amount: int
        currency: str
        class_version = 2

        @staticmethod
        def upcast_v1_v2(state: dict[str, Any]) -> None:
            state["currency"] = "EUR"

    @event(Placed)
    def __init__(self, amount: int, currency: str) -> None:
        self.amount = amount
        self.currency = currency
        self.notes: list[str] = []

    @event("Noted")
    def note(self, text: str) -> None:
        self.notes.append(text)


class Shop(Application[UUID]):
    name = "Shop"
    snapshotting_intervals: ClassVar[Any] = {Order: 3}


@pytest.mark.parametrize("is_secret", [False, True])
def test_an_application(settings: dict[str, str], is_secret: bool) -> None:
    if is_secret:
        key = eventsourcing.cryptography.AESCipher.create_key(16)
        settings |= {"COMPRESSOR_TOPIC": "zlib", "CIPHER_KEY": key}
    with Shop(settings) as app:
        order = Order(7, "CHF")
        for n in range(6):
            order.note(f"für {n}")
        app.save(order)
        app.save(again := Order(8, "EUR"))
        again.note("what")
        app.save(again)
        assert app.repository.get(order.id).notes == [f"für {n}" for n in range(6)]
        assert app.repository.get(order.id, version=5).notes == [f"für {n}" for n in range(4)]
        assert app.snapshots is not None
        assert [one.originator_version for one in app.snapshots.get(order.id)] == [3, 6]
        assert [one.id for one in app.notification_log.select(start=None, limit=10)] == [*range(1, 10)]
        assert len(app.notification_log["1,10"].items) == 9
        with pytest.raises(AggregateNotFoundError):
            app.repository.get(uuid4())
        with ApplicationSubscription(app, gt=7) as subscription:
            domain_event, tracking = next(subscription)
            assert tracking == Tracking("Shop", 8)
            assert isinstance(domain_event, Order.Placed)
        data = app.factory.datastore.store().get_events(f"aggregate-{order.id}")[0].data  # type: ignore[attr-defined]
        assert ("state" in data) is not is_secret


def test_an_event_of_an_earlier_version_is_upcast(settings: dict[str, str]) -> None:
    with Shop(settings) as app:
        app.save(order := Order(7, "CHF"))
        app.recorder.insert_events([_earlier(app, order)])
        assert app.repository.get(UUID(int=1)).currency == "EUR"


def _earlier(app: Shop, order: Order) -> StoredEvent:
    (placed,) = app.recorder.select_events(order.id)
    state = placed.state.replace(b'"currency":"CHF",', b"").replace(b',"class_version":2', b"")
    assert b"CHF" not in state
    assert b"class_version" not in state
    return StoredEvent(UUID(int=1), 1, placed.topic, state)


def test_of_two_decisions_one_is_refused(settings: dict[str, str]) -> None:
    with Shop(settings) as app:
        app.save(order := Order(7, "CHF"))
        one, two = app.repository.get(order.id), app.repository.get(order.id)
        one.note("one")
        two.note("two")
        app.save(one)
        with pytest.raises(IntegrityError):
            app.save(two)
        assert app.repository.get(order.id).notes == ["one"]


# -- projections


class Totals(SQLiteTrackingRecorder):
    """The sum of all orders, in the same transaction as how far it has come."""

    def construct_create_table_statements(self) -> list[str]:
        return [
            *super().construct_create_table_statements(),
            "CREATE TABLE IF NOT EXISTS total (currency TEXT PRIMARY KEY, amount INTEGER)",
        ]

    def add(self, currency: str, amount: int, tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(
                "INSERT INTO total VALUES (?, ?) ON CONFLICT DO UPDATE SET amount = amount + excluded.amount",
                (currency, amount),
            )

    def total(self, currency: str) -> int:
        with self.datastore.transaction(commit=False) as cursor:
            cursor.execute("SELECT amount FROM total WHERE currency = ?", (currency,))
            return int(cursor.fetchone()[0])


class TotalsProjection(Projection[Totals]):
    name = "totals"
    topics = (get_topic(Order.Placed),)

    @singledispatchmethod
    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        self.view.insert_tracking(tracking)

    @process_event.register
    def _(self, domain_event: Order.Placed, tracking: Tracking) -> None:
        self.view.add(domain_event.currency, domain_event.amount, tracking)


def run_totals(settings: dict[str, str]) -> ProjectionRunner[Shop, Totals]:
    return ProjectionRunner(application_class=Shop, projection_class=TotalsProjection, view_class=Totals, env=settings)


def test_a_projection_into_another_database(settings: dict[str, str], tmp_path: Path) -> None:
    settings |= {
        "TOTALS_PERSISTENCE_MODULE": "eventsourcing.sqlite",
        "TOTALS_SQLITE_DBNAME": str(tmp_path / "totals.db"),
    }
    with run_totals(settings) as runner:
        for amount in (1, 2, 3):
            order = Order(amount, "EUR")
            order.note("what")
            recordings = runner.app.save(order)
        runner.wait(recordings[0].notification.id, PATIENCE)
        assert runner.projection.view.total("EUR") == 6
    if settings["AETHER_SYNC_STORE"] == "memory":  # which is another store now, and shorter
        with pytest.raises(OperationalError):
            run_totals(settings)
        return
    with run_totals(settings) as runner:
        runner.wait(runner.app.save(Order(4, "EUR"))[0].notification.id, PATIENCE)
        assert runner.projection.view.total("EUR") == 10


def test_a_view_of_another_module_says_what_to_set(settings: dict[str, str]) -> None:
    with pytest.raises(InfrastructureFactoryError, match="set TOTALS_PERSISTENCE_MODULE"):
        run_totals(settings)


# -- systems


class Invoice(Aggregate):
    def __init__(self, order_id: UUID, amount: int) -> None:
        self.order_id = order_id
        self.amount = amount


class Orders(ProcessApplication[UUID]):
    def policy(self, domain_event: DomainEventProtocol[UUID], processing_event: ProcessingEvent[UUID]) -> None: ...


class Invoices(ProcessApplication[UUID]):
    @singledispatchmethod
    def policy(self, domain_event: DomainEventProtocol[UUID], processing_event: ProcessingEvent[UUID]) -> None: ...

    @policy.register
    def _(self, domain_event: Order.Placed, processing_event: ProcessingEvent[UUID]) -> None:
        processing_event.collect_events(Invoice(domain_event.originator_id, domain_event.amount))


class Ledger(ProcessApplication[UUID]):
    @singledispatchmethod
    def policy(self, domain_event: DomainEventProtocol[UUID], processing_event: ProcessingEvent[UUID]) -> None: ...

    @policy.register
    def _(self, domain_event: Invoice.Created, processing_event: ProcessingEvent[UUID]) -> None:
        processing_event.collect_events(Order(1, "LED"))


@pytest.mark.parametrize(
    "kind", first_of([NewMultiThreadedRunner, MultiThreadedRunner, NewSingleThreadedRunner, SingleThreadedRunner])
)
def test_a_system(settings: dict[str, str], kind: type[Runner[UUID]]) -> None:
    runner = kind(System([[Orders, Invoices, Ledger]]), settings)  # type: ignore[call-arg]
    runner.start()
    try:
        orders, invoices, ledger = map(runner.get, (Orders, Invoices, Ledger))
        for amount in range(5):
            order = Order(amount, "EUR")
            order.note("no invoice")
            orders.save(order)
        eventually(lambda: len(ledger.recorder.select_notifications(None, 100)) == 5)
        amounts = [invoices.mapper.to_domain_event(one) for one in invoices.recorder.select_notifications(None, 100)]
        assert sorted(one.amount for one in amounts) == [0, 1, 2, 3, 4]  # type: ignore[attr-defined]
        assert ledger.recorder.max_tracking_id("Invoices") == invoices.recorder.max_notification_id()
        assert invoices.recorder.max_tracking_id("Orders") == 10
    finally:
        runner.stop()
        for app in (orders, invoices, ledger):
            app.close()
