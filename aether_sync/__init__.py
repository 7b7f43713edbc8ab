"""An event bus and event store on NATS for plain threaded Python."""

from ._version import __version__
from .bus import CloseReport, EventBus
from .connection import Connection
from .errors import (
    AetherError,
    BusClosedError,
    ClosedError,
    ConnectError,
    ConnectionFailedError,
    DeadlineExceededError,
    DecodingError,
    DeliveryUncertainError,
    DisconnectedError,
    EncodingError,
    EventTooLargeError,
    InvalidEventError,
    InvalidNamespaceError,
    InvalidOptionError,
    PermissionDeniedError,
    PublishTimeoutError,
    ServerError,
    ServerNotFoundError,
    SubscriptionClosedError,
    SubscriptionOverflowError,
    WrongThreadError,
)
from .events import EVENT_STORED, Event, EventStored
from .metrics import Metrics, SubscriptionStats
from .nats_bus import NATSEventBus
from .patterns import SubscriptionFilter, actor_type
from .server import NatsCluster, NatsServer
from .subscription import Subscription

__all__ = [
    "EVENT_STORED",
    "AetherError",
    "BusClosedError",
    "CloseReport",
    "ClosedError",
    "ConnectError",
    "Connection",
    "ConnectionFailedError",
    "DeadlineExceededError",
    "DecodingError",
    "DeliveryUncertainError",
    "DisconnectedError",
    "EncodingError",
    "Event",
    "EventBus",
    "EventStored",
    "EventTooLargeError",
    "InvalidEventError",
    "InvalidNamespaceError",
    "InvalidOptionError",
    "Metrics",
    "NATSEventBus",
    "NatsCluster",
    "NatsServer",
    "PermissionDeniedError",
    "PublishTimeoutError",
    "ServerError",
    "ServerNotFoundError",
    "Subscription",
    "SubscriptionClosedError",
    "SubscriptionFilter",
    "SubscriptionOverflowError",
    "SubscriptionStats",
    "WrongThreadError",
    "__version__",
    "actor_type",
]
