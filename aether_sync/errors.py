"""Every error this library raises.

A deadline that ran out is also the builtin ``TimeoutError``; a bad argument is also a ``ValueError``::

    AetherError
    ├── InvalidNamespaceError (ValueError)      a namespace, pattern or prefix that cannot become a subject
    ├── InvalidEventError (ValueError)          an Event built from something that is no event
    ├── InvalidOptionError (ValueError)         any other argument out of its range
    ├── EncodingError (ValueError)              data that JSON does not have
    │   └── EventTooLargeError                  larger than the server's max_payload
    ├── DecodingError (ValueError)              bytes that are no event of ours; a payload of another shape
    ├── DeadlineExceededError (TimeoutError)    a wait came to its end
    │   └── PublishTimeoutError                 the outbox stayed full for publish_timeout
    ├── ConnectionFailedError                   something between us and the server
    │   ├── ConnectError                        no server could be reached, or none that would have us
    │   ├── DisconnectedError                   publishing while disconnected, with on_disconnect="raise"
    │   ├── PermissionDeniedError               the server refuses the subject
    │   └── DeliveryUncertainError              events were written but never confirmed, or were refused
    ├── ClosedError                             used after its end
    │   ├── BusClosedError
    │   └── SubscriptionClosedError
    │       └── SubscriptionOverflowError       overflow="fail", and the queue was full
    ├── WrongThreadError                        a blocking call on the loop thread
    └── ServerError                             the local nats-server would not start or stop
        └── ServerNotFoundError                 there is no nats-server binary
"""

__all__ = [
    "AetherError",
    "BusClosedError",
    "ClosedError",
    "ConnectError",
    "ConnectionFailedError",
    "DeadlineExceededError",
    "DecodingError",
    "DeliveryUncertainError",
    "DisconnectedError",
    "EncodingError",
    "EventTooLargeError",
    "InvalidEventError",
    "InvalidNamespaceError",
    "InvalidOptionError",
    "PermissionDeniedError",
    "PublishTimeoutError",
    "ServerError",
    "ServerNotFoundError",
    "SubscriptionClosedError",
    "SubscriptionOverflowError",
    "WrongThreadError",
]


class AetherError(Exception):
    """The root: catch this to catch everything this library raises."""


class InvalidNamespaceError(AetherError, ValueError):
    """A namespace, pattern or prefix cannot become a NATS subject."""


class InvalidEventError(AetherError, ValueError):
    """An event was built from values that are no event."""


class InvalidOptionError(AetherError, ValueError):
    """An argument is of the wrong type or out of its range."""


class EncodingError(AetherError, ValueError):
    """The event holds something that JSON does not have; nothing was delivered anywhere."""


class EventTooLargeError(EncodingError):
    """The encoded event is larger than the server's ``max_payload``; nothing was delivered anywhere."""


class DecodingError(AetherError, ValueError):
    """The bytes are not an event of this wire format, or the payload has another shape than asked for."""


class DeadlineExceededError(AetherError, TimeoutError):
    """A wait came to its end before what it waited for."""


class PublishTimeoutError(DeadlineExceededError):
    """The outbox stayed full for ``publish_timeout`` seconds; nothing was delivered anywhere."""


class ConnectionFailedError(AetherError):
    """Something between this process and the server."""


class ConnectError(ConnectionFailedError):
    """No server could be reached within ``connect_timeout``, or none that would have us; the message says why."""


class DisconnectedError(ConnectionFailedError):
    """Published while disconnected with ``on_disconnect="raise"``; nothing was delivered anywhere."""


class PermissionDeniedError(ConnectionFailedError):
    """The server refuses this subject to this user."""


class DeliveryUncertainError(ConnectionFailedError):
    """Events published before this flush may not have arrived.

    Attributes:
        uncertain: Events that were written to a connection which broke before the server confirmed them.
        rejected: Events that the server refused: no permission, or too large for it.
        reasons: The server's words for the rejected, each once.
    """

    def __init__(self, message: str, *, uncertain: int = 0, rejected: int = 0, reasons: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.uncertain = uncertain
        self.rejected = rejected
        self.reasons = reasons


class ClosedError(AetherError):
    """Used after its end."""


class BusClosedError(ClosedError):
    """The bus, or the connection it uses, is closed."""


class SubscriptionClosedError(ClosedError):
    """The subscription is closed and what it had queued is taken."""


class SubscriptionOverflowError(SubscriptionClosedError):
    """The queue of a subscription with ``overflow="fail"`` was full."""


class WrongThreadError(AetherError):
    """A blocking call was made on the thread that would have to answer it."""


class ServerError(AetherError):
    """A local nats-server did not start, or did not do what it was told."""


class ServerNotFoundError(ServerError):
    """There is no nats-server binary on this machine."""
