"""What JetStream answers: acknowledgements and errors, and what each error means to a store.

The shapes are those of the JetStream API (https://docs.nats.io/reference/reference-protocols/nats_api_reference).
"""

import json
from typing import Any

import msgspec

from ..._nats.call import is_status
from ..._nats.interest import Message
from ...errors import AtomicAppendUnsupportedError, EventTooLargeError, StoreError, StoreUnavailableError
from .error_codes import ErrorCode

__all__ = [
    "BUSY",
    "FULL",
    "Acked",
    "ApiError",
    "BusyError",
    "IncompleteError",
    "NoRoomError",
    "NotSentError",
    "RefusedError",
    "UnknownError",
    "code_of",
    "content_of",
    "gone",
    "is_ack",
    "is_stream_not_found",
    "raise_for",
    "read_ack",
    "read_error",
    "said",
    "status_of",
    "why_again",
]

_REFUSED = {  # another writer was first, or the event is stored
    ErrorCode.JSStreamWrongLastSequenceErrF,
    ErrorCode.JSStreamWrongLastSequenceConstantErr,  # that writer's event is in flight
    ErrorCode.JSAtomicPublishContainsDuplicateMessageErr,
}
#: Errors that pass: try again.
BUSY = {  # no leader; an id or a subject is in flight; too much at once
    ErrorCode.JSClusterNotAvailErr,
    ErrorCode.JSClusterNotLeaderErr,
    ErrorCode.JSStreamDuplicateMessageConflict,
    ErrorCode.JSStreamExpectedLastSeqPerSubjectNotReady,
    ErrorCode.JSStreamTooManyRequests,
    ErrorCode.JSAtomicPublishIncompleteBatchErr,
    ErrorCode.JSAtomicPublishTooManyInflight,
}
#: Errors of a server that has no room.
FULL = {  # no memory or disk is left to the server, the account or the stream
    ErrorCode.JSAccountResourcesExceededErr,
    ErrorCode.JSInsufficientResourcesErr,
    ErrorCode.JSMemoryResourcesExceededErr,
    ErrorCode.JSStorageResourcesExceededErr,
    ErrorCode.JSStreamStoreFailedF,
    ErrorCode.JSNoLimitsErr,
    ErrorCode.JSStreamMaxStreamBytesExceeded,
}
_ABSENT = b'"err_code":%d' % ErrorCode.JSStreamNotFoundErr
_BEGINNING = 200  # bytes of an answer: an error stands there


class RefusedError(Exception):
    """The expected last sequence is not the last, or the id of a message is known; nothing was stored."""


class BusyError(Exception):
    """The server cannot do it now; nothing was stored."""


class IncompleteError(BusyError):
    """A part of a batch was not taken: it came too late, or there was no room for it."""


class NoRoomError(Exception):
    """There is no room for a batch; a part of it may be stored."""


class NotSentError(BusyError):
    """There is no connection."""


class UnknownError(Exception):
    """No answer came: it may be stored, or not."""


class ApiError(msgspec.Struct):
    """An error as the server describes it."""

    code: int = 0
    err_code: int = 0
    description: str = ""

    def __str__(self) -> str:
        return f"{self.description} ({self.err_code})"


class Acked(msgspec.Struct):
    """The server's answer to a publish (``PubAck``): where it is stored, or why it is not."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: ApiError | None = None


class _Failed(msgspec.Struct):
    error: ApiError | None = None


read_ack = msgspec.json.Decoder(Acked).decode
_read_failed = msgspec.json.Decoder(_Failed).decode


def read_error(message: Message) -> ApiError | None:
    """Return the error that an answer is; None if it is none."""
    return _read_failed(message[3]).error if message[3] else None


def is_stream_not_found(message: Message) -> bool:
    """Whether an answer says that there is no such stream. Cheap: it is asked of every answer."""
    return not message[2] and _ABSENT in message[3][:_BEGINNING]


def is_ack(message: Message) -> bool:
    """Whether an answer to a publish is the last: an empty one says that a batch has begun."""
    return bool(message[3]) or is_status(message)


def status_of(message: Message) -> int:
    """Return the status in a message's headers: 503 where nobody answers, 404 for no messages; 0 if it has none."""
    return int(message[2][9:12]) if is_status(message) else 0


def content_of(message: Message) -> dict[str, Any]:
    """Return an answer of the API as the JSON object that it is."""
    answer = json.loads(message[3] or b"{}")
    return answer if isinstance(answer, dict) else {}


def why_again(message: Message) -> str:
    """Return why a request has to be repeated, if this answer says so; else an empty text."""
    if status_of(message) == 503:
        return "there is no JetStream on the server for this user, or no leader of the stream"
    error = None if message[2] else read_error(message)
    if error is not None and error.err_code in BUSY:
        return f"JetStream is not ready ({error.err_code})"
    return ""


def code_of(answer: dict[str, Any]) -> int:
    """Return the number of the error that an answer of the API is; 0 if it is none."""
    return int(answer.get("error", {}).get("err_code", 0))


def said(answer: dict[str, Any]) -> str:
    """Return the text of the error that an answer of the API is."""
    error = answer["error"]
    return f"{error.get('description')} ({error.get('err_code')})"


def gone(stream: str) -> str:
    """Return what to tell the user about a stream that was there."""
    return (
        f"stream {stream!r} is not there any more: it was deleted, or the server has lost its disk, or is another one. "
        "Nothing of this call is stored; the next use makes the stream anew, without events"
    )


def raise_for(error: ApiError) -> None:
    """Raise the exception that an answer to a publish stands for."""
    if error.err_code in _REFUSED:
        raise RefusedError(str(error))
    if error.err_code == ErrorCode.JSAtomicPublishIncompleteBatchErr:
        raise IncompleteError(f"not all of it was taken, for lack of room or of time: {error}")
    if error.err_code in BUSY:
        raise BusyError(str(error))
    if error.err_code == ErrorCode.JSAtomicPublishDisabledErr:
        raise AtomicAppendUnsupportedError(
            "the stream takes no atomic batches: set allow_atomic on it (nats-server 2.12.1), or save one event at a "
            "time"
        )
    if error.err_code == ErrorCode.JSAtomicPublishUnsupportedHeaderBatchErr:
        raise AtomicAppendUnsupportedError(
            f"the server takes no message ids in an atomic batch ({error}): upgrade it to nats-server 2.12.1 or "
            "later, or save one event at a time"
        )
    if error.err_code == ErrorCode.JSAtomicPublishTooLargeBatchErrF:
        raise AtomicAppendUnsupportedError(
            f"so many events at once are too many for the server ({error}): save fewer, or raise max_msgs of the batch "
            "limits in its configuration"
        )
    if error.err_code == ErrorCode.JSStreamMessageExceedsMaximumErr:
        raise EventTooLargeError(f"an event is larger than the stream's max_msg_size: {error}")
    if error.err_code in FULL:
        raise StoreUnavailableError(f"the server has no room for it: {error}")
    if error.code >= 500:
        raise StoreUnavailableError(f"the server cannot store it now: {error}")
    raise StoreError(f"the server did not store it: {error}")
