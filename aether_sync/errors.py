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
    ├── StoreError                              the event store did not do it
    │   ├── VersionConflictError                another writer was first: load the actor again
    │   ├── UnknownOutcomeError (TimeoutError)  the events may be stored, or not; saving them again is safe
    │   ├── DuplicateIdError                    the id of an event is that of another one
    │   ├── AtomicAppendUnsupportedError        this server or stream has no atomic batches
    │   ├── UnsupportedError (AttributeError)   another kind of store has this, and this one has not
    │   ├── MalformedRecordError (ValueError)   a record of the store is no event
    │   ├── StreamMismatchError                 there is such a stream, with other settings
    │   ├── StreamRegressionError               the stream ends before what was read of it: it was restored or lost
    │   └── StoreUnavailableError               no JetStream, no leader, no room
    ├── ClosedError                             used after its end
    │   ├── BusClosedError
    │   ├── StoreClosedError
    │   └── SubscriptionClosedError
    │       └── SubscriptionOverflowError       overflow="fail", and the queue was full
    ├── WrongThreadError                        a blocking call on the loop thread
    └── ServerError                             the local nats-server would not start or stop
        └── ServerNotFoundError                 there is no nats-server binary
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
    "InvalidEventError",
    "InvalidNamespaceError",
    "InvalidOptionError",
    "MalformedRecordError",
    "PermissionDeniedError",
    "PublishTimeoutError",
    "ServerError",
    "ServerNotFoundError",
    "StoreClosedError",
    "StoreError",
    "StoreUnavailableError",
    "StreamMismatchError",
    "StreamRegressionError",
    "SubscriptionClosedError",
    "SubscriptionOverflowError",
    "UnknownOutcomeError",
    "UnsupportedError",
    "VersionConflictError",
    "WrongThreadError",
]


class AetherError(Exception):
    """The root: catch this to catch everything this library raises."""


class InvalidNamespaceError(AetherError, ValueError):
    """A namespace, pattern or prefix cannot become a NATS subject, or is longer than the server takes."""


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
    """The server refuses this subject to this user: a right is missing, or a limit is reached, as the message says."""


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


class StoreError(AetherError):
    """The event store did not do what it was asked for."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # what else is there is for attributes


class VersionConflictError(StoreError):
    """Another writer was first; nothing of this call is stored. Load the actor again, decide again, try again.

    Attributes:
        actor_id: Whose events they are.
        attempted_version: The first version that was to be stored.
        current_version: The actor's version by the leader's word.
        expected_version: What ``append()`` was told to expect; None for events that have versions of their own.
        is_of_snapshot: Whether it was a snapshot that is ahead of its actor's events.
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
    """The events may or may not be stored: no answer came, nor could the actor be read.

    ``store.save_events(error.events)`` is safe, now and later: what is stored already counts as a success.

    Attributes:
        events: What was to be stored, with the versions that it was to have.
    """

    def __init__(self, message: str, events: tuple[Any, ...] = ()) -> None:
        super().__init__(message, events)
        self.events = events


class DuplicateIdError(StoreError):
    """Another event is stored under this event's id, or two that are to be stored have the same."""


class AtomicAppendUnsupportedError(StoreError):
    """Several events at once need nats-server 2.12, a stream with ``allow_atomic``, and a server that takes so many.

    None of them is stored.
    """


class UnsupportedError(StoreError, AttributeError):
    """Another kind of store has this, and this one has not; so ``hasattr()`` is false."""


class MalformedRecordError(StoreError, ValueError):
    """A record is no event of this wire format. ``get_events_with_errors()`` reads past it.

    Attributes:
        sequence: Its place in the store.
        data: Its bytes.
    """

    def __init__(self, message: str, sequence: int, data: bytes) -> None:
        super().__init__(message, sequence, data)
        self.sequence = sequence
        self.data = data


class StreamMismatchError(StoreError):
    """There is a stream of this name with settings that a store cannot have; the message names each.

    Attributes:
        differences: For each setting, a sentence.
    """

    def __init__(self, message: str, differences: tuple[str, ...] = ()) -> None:
        super().__init__(message, differences)
        self.differences = differences


class StreamRegressionError(StoreError):
    """The stream is not the one of a checkpoint: it was restored, lost events, is another one, or is gone."""


class StoreUnavailableError(StoreError):
    """The server cannot serve the store: no JetStream, no leader, no room. Nothing of this call counts."""


class ClosedError(AetherError):
    """Used after its end."""


class BusClosedError(ClosedError):
    """The bus, or the connection it uses, is closed."""


class StoreClosedError(ClosedError):
    """The store is closed, or the iterator over it."""


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
