"""An event bus and event store on NATS for plain threaded Python."""

from ._bus.store_watch import VersionListener
from ._runtime.exit import end_iterations
from ._runtime.reporter import flush_logs
from ._version import __version__
from .bus import EventBus
from .connection import Connection, ConnectionOptions
from .errors import (
    AetherError,
    AtomicAppendUnsupportedError,
    BusClosedError,
    ClosedError,
    ConnectError,
    ConnectionFailedError,
    DeadlineExceededError,
    DecodingError,
    DeliveryUncertainError,
    DisconnectedError,
    DuplicateIdError,
    EncodingError,
    EventTooLargeError,
    InvalidEventError,
    InvalidNamespaceError,
    InvalidOptionError,
    MalformedRecordError,
    PermissionDeniedError,
    PublishTimeoutError,
    ServerError,
    ServerNotFoundError,
    StoreClosedError,
    StoreError,
    StoreUnavailableError,
    StreamMismatchError,
    StreamRegressionError,
    SubscriptionClosedError,
    SubscriptionOverflowError,
    UnknownOutcomeError,
    UnsupportedError,
    VersionConflictError,
    WrongThreadError,
)
from .events import EVENT_STORED, Event, EventStored
from .handling_context import (
    Handleable,
    HandlingContext,
    HandlingFilter,
    add_handling,
    current_handling,
    handling,
)
from .health import HasHealth, Health, health_app
from .instrumentation import Observer, Operation, Stamp, instrument
from .metrics import (
    CallMetrics,
    CloseReport,
    FollowerStats,
    Histogram,
    Metrics,
    RunnerMetrics,
    StoreMetrics,
    SubscriptionStats,
)
from .nats_bus import NATSEventBus
from .notices import Notice, NoticeCallback
from .patterns import SubscriptionFilter, actor_type
from .server.cluster import NATSCluster
from .server.server import NATSServer
from .stores.base import (
    ANY_VERSION,
    NO_EVENTS,
    AnyVersion,
    Follower,
    LoadedActor,
    MalformedRecord,
    Reading,
    Snapshot,
    StoredEvent,
)
from .stores.consumers.base import ConsumerState, DeadLetter
from .stores.consumers.consumption import Consumption
from .stores.consumers.delivery import Delivery
from .stores.consumers.handlers import Handler
from .stores.consumers.runner import Runner
from .stores.doctor.diagnosis import diagnose
from .stores.doctor.findings import Finding
from .stores.event_store import Consumer, EventStore
from .stores.jetstream import JetStreamEventStore
from .stores.memory import InMemoryEventStore
from .stores.retrying import retry_on_conflict
from .subscription import Subscription

__all__ = [
    "ANY_VERSION",
    "EVENT_STORED",
    "NO_EVENTS",
    "AetherError",
    "AnyVersion",
    "AtomicAppendUnsupportedError",
    "BusClosedError",
    "CallMetrics",
    "CloseReport",
    "ClosedError",
    "ConnectError",
    "Connection",
    "ConnectionFailedError",
    "ConnectionOptions",
    "Consumer",
    "ConsumerState",
    "Consumption",
    "DeadLetter",
    "DeadlineExceededError",
    "DecodingError",
    "Delivery",
    "DeliveryUncertainError",
    "DisconnectedError",
    "DuplicateIdError",
    "EncodingError",
    "Event",
    "EventBus",
    "EventStore",
    "EventStored",
    "EventTooLargeError",
    "Finding",
    "Follower",
    "FollowerStats",
    "Handleable",
    "Handler",
    "HandlingContext",
    "HandlingFilter",
    "HasHealth",
    "Health",
    "Histogram",
    "InMemoryEventStore",
    "InvalidEventError",
    "InvalidNamespaceError",
    "InvalidOptionError",
    "JetStreamEventStore",
    "LoadedActor",
    "MalformedRecord",
    "MalformedRecordError",
    "Metrics",
    "NATSCluster",
    "NATSEventBus",
    "NATSServer",
    "Notice",
    "NoticeCallback",
    "Observer",
    "Operation",
    "PermissionDeniedError",
    "PublishTimeoutError",
    "Reading",
    "Runner",
    "RunnerMetrics",
    "ServerError",
    "ServerNotFoundError",
    "Snapshot",
    "Stamp",
    "StoreClosedError",
    "StoreError",
    "StoreMetrics",
    "StoreUnavailableError",
    "StoredEvent",
    "StreamMismatchError",
    "StreamRegressionError",
    "Subscription",
    "SubscriptionClosedError",
    "SubscriptionFilter",
    "SubscriptionOverflowError",
    "SubscriptionStats",
    "UnknownOutcomeError",
    "UnsupportedError",
    "VersionConflictError",
    "VersionListener",
    "WrongThreadError",
    "__version__",
    "actor_type",
    "add_handling",
    "current_handling",
    "diagnose",
    "end_iterations",
    "flush_logs",
    "handling",
    "health_app",
    "instrument",
    "retry_on_conflict",
]
