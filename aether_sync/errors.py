"""Every error this library raises.

A deadline that ran out is also the builtin ``TimeoutError``; a bad argument is also a ``ValueError``::

    AetherError
    ├── InvalidNamespaceError (ValueError)      a namespace, pattern or prefix that cannot become a subject
    ├── InvalidEventError (ValueError)          an Event with a field of the wrong type or out of its range
    ├── InvalidOptionError (ValueError)         any other argument of the wrong type or out of its range
    ├── EncodingError (ValueError)              data that cannot be written as JSON
    │   └── EventTooLargeError                  larger than the server's max_payload
    ├── DecodingError (ValueError)              bytes that are not an event; a payload of another shape
    │   └── EventTypeError                      an event is not what its registered type says
    │       └── UnknownEventTypeError           no such type is registered, or an older version of it only
    ├── DeadlineExceededError (TimeoutError)    a timeout ran out
    │   ├── PublishTimeoutError                 the outbox stayed full for publish_timeout
    │   └── TimeLimitExceededError              a handler has run for longer than its time limit
    ├── ConnectionFailedError                   the connection, or a right on the server, is missing
    │   ├── ConnectError                        no server could be reached, or none accepted the credentials
    │   ├── DisconnectedError                   publishing while disconnected, with on_disconnect="raise"
    │   ├── PermissionDeniedError               the server refuses the subject
    │   └── DeliveryUncertainError              published events were not confirmed, or were refused
    ├── StoreError                              the event store could not do it
    │   ├── VersionConflictError                another writer was first: load the actor again
    │   ├── UnknownOutcomeError (TimeoutError)  the events may be stored, or not; saving them again is safe
    │   ├── DuplicateIdError                    another event has the same id, or a command of other actors
    │   ├── AtomicAppendUnsupportedError        this server or stream has no atomic batches
    │   ├── UnsupportedError (AttributeError)   only another kind of store has this method
    │   ├── MalformedRecordError (ValueError)   a record of the store is not an event
    │   ├── StreamMismatchError                 the stream exists, with other settings
    │   ├── StreamRegressionError               the stream ends before the last event read: it was restored or lost
    │   └── StoreUnavailableError               no JetStream, no leader, no room
    ├── ProjectionError                         a projection could not do it
    │   ├── ProjectionMismatchError             what its database says of it is of another stream, or other filters
    │   ├── ProjectionStoppedError              it does not go on, until somebody acts
    │   └── ProjectionUnavailableError          its database cannot be reached
    ├── OutboxError                             an outbox, or its relay, cannot do it: no transaction, no table
    ├── WorkerError                             a worker cannot do it: no thread, begun already, a hook that raised
    ├── ClosedError                             it was closed
    │   ├── BusClosedError
    │   ├── StoreClosedError
    │   └── SubscriptionClosedError
    │       └── SubscriptionOverflowError       overflow="fail", and the queue was full
    ├── WrongThreadError                        a blocking call on the loop thread
    └── ServerError                             the local nats-server did not start or stop
        └── ServerNotFoundError                 there is no nats-server binary

These are also a ``RetryableError``, since what raised them may succeed when it is done again, unchanged:
``DeadlineExceededError``, ``ConnectError``, ``DisconnectedError``, ``StoreUnavailableError`` and
``ProjectionUnavailableError``.
"""

from typing import Any

from ._values.shown import short

__all__ = [
    "AetherError",
    "AtomicAppendUnsupportedError",
    "BusClosedError",
    "ClosedError",
    "ConnectError",
    "ConnectionFailedError",
    "DeadlineExceededError",
    "DecodingError",
    "DeliveryUncertainError",
    "DisconnectedError",
    "DuplicateIdError",
    "EncodingError",
    "EventTooLargeError",
    "EventTypeError",
    "InvalidEventError",
    "InvalidNamespaceError",
    "InvalidOptionError",
    "MalformedRecordError",
    "OutboxError",
    "PermissionDeniedError",
    "ProjectionError",
    "ProjectionMismatchError",
    "ProjectionStoppedError",
    "ProjectionUnavailableError",
    "PublishTimeoutError",
    "RetryableError",
    "ServerError",
    "ServerNotFoundError",
    "StoreClosedError",
    "StoreError",
    "StoreUnavailableError",
    "StreamMismatchError",
    "StreamRegressionError",
    "SubscriptionClosedError",
    "SubscriptionOverflowError",
    "TimeLimitExceededError",
    "UnknownEventTypeError",
    "UnknownOutcomeError",
    "UnsupportedError",
    "VersionConflictError",
    "WorkerError",
    "WrongThreadError",
]


class AetherError(Exception):
    """The base of every error that this library raises."""


class RetryableError(AetherError):
    """What raised it may succeed when it is done again, unchanged: after a pause, as nothing was done so far.

    It is the base of other errors, and never raised itself.
    """


class InvalidNamespaceError(AetherError, ValueError):
    """A namespace, pattern or prefix cannot become a NATS subject, or is longer than the server accepts."""


class InvalidEventError(AetherError, ValueError):
    """A field of an event is of the wrong type or out of its range; the message names the field."""


class InvalidOptionError(AetherError, ValueError):
    """An argument is of the wrong type or out of its range."""


class EncodingError(AetherError, ValueError):
    """The event holds a value that cannot be written as JSON; nothing was delivered anywhere."""


class EventTooLargeError(EncodingError):
    """The encoded event is larger than the server's ``max_payload``; nothing was delivered anywhere."""


class DecodingError(AetherError, ValueError):
    """The bytes are not an event of this wire format, or the payload does not have the shape asked for."""


class EventTypeError(DecodingError):
    """The value of an event cannot be made: its data has another shape than its class, or an upcaster has failed.

    If the handler of a consumer lets this error of its own event through, the event becomes a dead letter at once.

    Attributes:
        event_id: The id of the event.
    """

    def __init__(self, message: str, event_id: str) -> None:
        super().__init__(message, event_id)
        self.event_id = event_id

    def __str__(self) -> str:
        return str(self.args[0])  # the other argument is an attribute


class UnknownEventTypeError(EventTypeError):
    """The type of an event is not registered, or the event is of a newer version than the registered one."""


class DeadlineExceededError(RetryableError, TimeoutError):
    """A timeout ran out before the call was done; the message says what it waited for."""


class PublishTimeoutError(DeadlineExceededError):
    """The outbox stayed full for ``publish_timeout`` seconds; nothing was delivered anywhere."""


class TimeLimitExceededError(DeadlineExceededError):
    """A handler has run for longer than its time limit, and is interrupted where it has said that this is safe."""

    def __init__(self, message: str = "the handler has run for longer than its time limit") -> None:
        super().__init__(message)


class ConnectionFailedError(AetherError):
    """The base of errors about the connection to the server, and about rights there."""


class ConnectError(ConnectionFailedError, RetryableError):
    """No server could be reached in time, or none accepted the credentials; the message says why."""


class DisconnectedError(ConnectionFailedError, RetryableError):
    """The bus is disconnected, and has ``on_disconnect="raise"``; nothing was delivered anywhere."""


class PermissionDeniedError(ConnectionFailedError):
    """The server denies this subject to this user: a right is missing, or a limit is reached."""


class DeliveryUncertainError(ConnectionFailedError):
    """Events published before this flush may not have arrived.

    Attributes:
        uncertain: How many events were written to a connection that broke before the server confirmed them.
        rejected: How many events the server refused: its user lacks the right, or they are too large.
        reasons: Why the server refused events, each reason once.
    """

    def __init__(self, message: str, *, uncertain: int = 0, rejected: int = 0, reasons: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.uncertain = uncertain
        self.rejected = rejected
        self.reasons = reasons


class StoreError(AetherError):
    """The event store could not do what it was asked for."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # the other arguments are attributes


class VersionConflictError(StoreError):
    """Another writer was first, and nothing of this call is stored. Load the actor again, decide again, save again.

    Attributes:
        actor_id: The actor of the events.
        attempted_version: The version that the first event of the call would have had.
        current_version: The actor's version, as the leader of the stream knows it.
        expected_version: The version that ``append()`` was told to expect; None if the events came with versions.
        is_of_snapshot: Whether the call saved a snapshot, which is ahead of its actor's events.
    """

    def __init__(self, actor_id: str, attempted_version: int, current_version: int) -> None:
        super().__init__(actor_id, attempted_version, current_version)
        self.actor_id = actor_id
        self.attempted_version = attempted_version
        self.current_version = current_version
        self.expected_version: int | None = None
        self.is_of_snapshot = False

    def __str__(self) -> str:
        actor = f"actor {short(self.actor_id)}"
        if self.is_of_snapshot:
            what = f"so no snapshot of version {self.attempted_version} was kept: save its events first"
        elif self.expected_version is None:
            what = f"so version {self.attempted_version} was not stored: load it again, and go on from there"
        elif self.expected_version:
            what = f"and expected_version was {self.expected_version}: nothing was stored; load it, and decide again"
        else:
            what = "and was expected to have no events: nothing was stored; load it, and decide on what is there"
        return f"{actor} is at version {self.current_version}, {what}"


class UnknownOutcomeError(StoreError, TimeoutError):
    """The events may be stored or not: the server did not answer, and the actor could not be read afterwards.

    It is safe to call ``store.save_events(error.events)``, now or later: events that are stored already count as saved.

    Attributes:
        events: The events of the call, with the versions that they would have.
    """

    def __init__(self, message: str, events: tuple[Any, ...] = ()) -> None:
        super().__init__(message, events)
        self.events = events


class DuplicateIdError(StoreError):
    """Another event is stored under the same id, or two events of one call have the same id.

    Or a command of the same id was decided before, for actors that the call does not name.
    """


class AtomicAppendUnsupportedError(StoreError):
    """Saving several events at once is not possible here, and none of them is stored.

    It needs nats-server 2.12.1, a stream with ``allow_atomic``, and no more events than the server takes in one batch.
    """


class UnsupportedError(StoreError, AttributeError):
    """Only another kind of store has this method. It is an ``AttributeError``, so ``hasattr()`` returns False."""


class MalformedRecordError(StoreError, ValueError):
    """A record is not an event of this wire format. ``get_events_with_errors()`` reads past it.

    Attributes:
        sequence: The place of the record in the store.
        data: The bytes of the record.
    """

    def __init__(self, message: str, sequence: int, data: bytes) -> None:
        super().__init__(message, sequence, data)
        self.sequence = sequence
        self.data = data


class StreamMismatchError(StoreError):
    """A stream of this name exists, with settings that a store cannot use; the message names each of them.

    Attributes:
        differences: A sentence for each such setting.
    """

    def __init__(self, message: str, differences: tuple[str, ...] = ()) -> None:
        super().__init__(message, differences)
        self.differences = differences


class StreamRegressionError(StoreError):
    """The stream is not the one that was read before: it was restored, has lost events, was replaced, or is gone."""


class StoreUnavailableError(StoreError, RetryableError):
    """The server cannot serve the store: no JetStream, no leader or no room. Nothing of this call is stored."""


class ProjectionError(AetherError):
    """A projection could not do what it was asked for."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # the other arguments are attributes


class ProjectionMismatchError(ProjectionError):
    """The database has a checkpoint for a projection of this name, which is of another stream or has other filters."""


class ProjectionStoppedError(ProjectionError):
    """A projection has stopped, in this process or in another one, and does not go on until somebody acts.

    Attributes:
        sequence: The sequence of the event that it has stopped at; 0 if it is not at an event.
        event_id: The id of that event; "" if there is none.
    """

    def __init__(self, message: str, sequence: int = 0, event_id: str = "") -> None:
        super().__init__(message, sequence, event_id)
        self.sequence = sequence
        self.event_id = event_id


class ProjectionUnavailableError(ProjectionError, RetryableError):
    """The database of a projection could not be reached, or did not do it; trying again may help."""


class OutboxError(AetherError):
    """An outbox cannot take an event, as there is no transaction; or its table is not there, or cannot be reached."""


class ClosedError(AetherError):
    """The base of errors about objects that were closed."""


class BusClosedError(ClosedError):
    """The bus, or the connection it uses, is closed."""


class StoreClosedError(ClosedError):
    """The store, or an iterator over it, is closed."""


class SubscriptionClosedError(ClosedError):
    """The subscription is closed, and all events that it had queued were taken."""


class SubscriptionOverflowError(SubscriptionClosedError):
    """The queue of a subscription was full, and it has ``overflow="fail"``."""


class WorkerError(AetherError):
    """A worker, or a bus that runs a handler, cannot do it: it has begun already, or has no thread for a handler."""


class WrongThreadError(AetherError):
    """A blocking call was made on the thread that would have to answer it."""


class ServerError(AetherError):
    """A local nats-server did not start, stop or reload; the message has the end of its log."""


class ServerNotFoundError(ServerError):
    """There is no nats-server binary on this machine."""
