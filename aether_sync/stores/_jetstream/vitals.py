"""What the server says of a stream when a store is asked for its health."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from ..._runtime.deadline import Deadline
from ..._values.clock import monotonic
from ...errors import AetherError
from .answers import code_of, gone, said
from .error_codes import ErrorCode
from .stream import Stream

__all__ = ["Vitals", "ask_for_vitals"]

_LEAST = 256  # bytes: no event takes less in a stream, with its subject and headers


class Vitals(NamedTuple):
    """What was found.

    Attributes:
        reasons: Why the stream cannot be used, in words.
        numbers: Of its state.
    """

    reasons: tuple[str, ...]
    numbers: dict[str, float]


def ask_for_vitals(stream: Stream, deadline: Deadline) -> Vitals:
    """Ask the server for a stream. Nothing is made and nothing is raised."""
    began = monotonic()
    try:
        answer = stream.ask(deadline)
    except AetherError as error:
        return Vitals((f"stream {stream.name!r} cannot be used: {error}",), {})
    took = monotonic() - began
    if code_of(answer) == ErrorCode.JSStreamNotFoundErr:
        return Vitals((gone(stream.name),) if stream.was_seen else (), {})
    if "error" in answer:
        return Vitals((f"stream {stream.name!r} cannot be used: {said(answer)}",), {})
    config, state, cluster = answer.get("config") or {}, answer.get("state") or {}, answer.get("cluster") or {}
    # A server leaves out the leader if there is none, and the whole cluster if it is alone.
    reasons = [f"stream {stream.name!r} has no leader"] if cluster and not cluster.get("leader") else []
    mismatch = stream.mismatch(config)
    if mismatch is not None:
        reasons.append(str(mismatch))
    reasons += [f"stream {stream.name!r} is full: {what}" for what in _limits_reached(config, state)]
    return Vitals(tuple(reasons), {**_numbers(state, cluster), "seconds_round_trip": took})


def _limits_reached(config: dict[str, Any], state: dict[str, Any]) -> Iterator[str]:
    """Say which limits let no further event in. If old events make room for new ones, that is another fault."""
    if config.get("discard") != "new":
        return
    messages, most = state.get("messages", 0), config.get("max_msgs", -1)
    if 0 < most <= messages:
        yield f"it has {messages:,} records, and its max_msgs is {most:,}"
    size, largest = state.get("bytes", 0), config.get("max_bytes", -1)
    if 0 < largest < size + _LEAST:
        yield f"it has {size:,} bytes, and its max_bytes is {largest:,}"


def _numbers(state: dict[str, Any], cluster: dict[str, Any]) -> dict[str, float]:
    replicas = cluster.get("replicas") or ()
    return {
        "events": state.get("messages", 0),
        "last_sequence": state.get("last_seq", 0),
        "bytes": state.get("bytes", 0),
        "replicas_missing": sum(bool(one.get("offline") or not one.get("current")) for one in replicas),
        "replica_lag": max((one.get("lag", 0) for one in replicas), default=0),
    }
