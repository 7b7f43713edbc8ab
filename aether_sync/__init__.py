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
    EventTypeError,
    InvalidEventError,
    InvalidNamespaceError,
    InvalidOptionError,
    MalformedRecordError,
    OutboxError,
    PermissionDeniedError,
    ProjectionError,
    ProjectionMismatchError,
    ProjectionStoppedError,
    ProjectionUnavailableError,
    PublishTimeoutError,
    RetryableError,
    ServerError,
    ServerNotFoundError,
    StoreClosedError,
    StoreError,
    StoreUnavailableError,
    StreamMismatchError,
    StreamRegressionError,
    SubscriptionClosedError,
    SubscriptionOverflowError,
    TimeLimitExceededError,
    UnknownEventTypeError,
    UnknownOutcomeError,
    UnsupportedError,
    VersionConflictError,
    WorkerError,
    WrongThreadError,
)
from .event_types import EventTypes
from .events import EVENT_STORED, PROJECTION_ADVANCED, Event, EventStored, ProjectionAdvanced
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
    HandlerMetrics,
    Histogram,
    Metrics,
    RunnerMetrics,
    StoreMetrics,
    SubscriptionStats,
    WorkerMetrics,
)
from .nats_bus import NATSEventBus
from .notices import Notice, NoticeCallback
from .patterns import SubscriptionFilter, actor_type
from .server.cluster import NATSCluster
from .server.server import NATSServer
from .sourcing.read_your_writes import ReadYourWrites, ReadYourWritesStats
from .sourcing.repository import ActorState, Decided, DecidedTogether, Repository
from .sourcing.scenario import Given, Scenarios, When
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
from .stores.consumers.retry_policy import RetryPolicy
from .stores.consumers.runner import Runner
from .stores.doctor.diagnosis import diagnose
from .stores.doctor.findings import Finding
from .stores.event_store import Consumer, EventStore
from .stores.jetstream import JetStreamEventStore
from .stores.memory import InMemoryEventStore
from .stores.projections.base import Database, Link
from .stores.projections.checkpoints import SetAside
from .stores.projections.dbapi import DBAPI
from .stores.projections.projection import Projection
from .stores.projections.sqlite import SQLite
from .stores.retrying import retry_on_conflict
from .subscription import Subscription
from .subscription_runner import SubscriptionRunner
from .worker.calls import Failure
from .worker.time_limits import interruptible
from .worker.worker import Worker

__all__ = [
    "ANY_VERSION",
    "EVENT_STORED",
    "NO_EVENTS",
    "PROJECTION_ADVANCED",
    "ActorState",
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
    "DBAPI",
    "Database",
    "DeadLetter",
    "DeadlineExceededError",
    "Decided",
    "DecidedTogether",
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
    "EventTypeError",
    "EventTypes",
    "Failure",
    "Finding",
    "Follower",
    "FollowerStats",
    "Given",
    "Handleable",
    "Handler",
    "HandlerMetrics",
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
    "Link",
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
    "OutboxError",
    "PermissionDeniedError",
    "Projection",
    "ProjectionAdvanced",
    "ProjectionError",
    "ProjectionMismatchError",
    "ProjectionStoppedError",
    "ProjectionUnavailableError",
    "PublishTimeoutError",
    "ReadYourWrites",
    "ReadYourWritesStats",
    "Reading",
    "Repository",
    "RetryPolicy",
    "RetryableError",
    "Runner",
    "RunnerMetrics",
    "Scenarios",
    "SQLite",
    "ServerError",
    "ServerNotFoundError",
    "SetAside",
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
    "SubscriptionRunner",
    "SubscriptionStats",
    "TimeLimitExceededError",
    "UnknownEventTypeError",
    "UnknownOutcomeError",
    "UnsupportedError",
    "VersionConflictError",
    "VersionListener",
    "When",
    "Worker",
    "WorkerError",
    "WorkerMetrics",
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
    "interruptible",
    "retry_on_conflict",
]
