"""What the server says of a stream when a store is asked for its health."""

from typing import Any, NamedTuple

from ..._runtime.deadline import Deadline
from ..._values.clock import monotonic
from ...errors import AetherError
from .answers import code_of, gone, said
from .error_codes import ErrorCode
from .stream import Stream

__all__ = ["Vitals", "ask_for_vitals"]


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
    cluster = answer.get("cluster") or {}
    reasons = () if cluster.get("leader", "?") else (f"stream {stream.name!r} has no leader",)
    return Vitals(reasons, {**_numbers(answer.get("state") or {}, cluster), "seconds_round_trip": took})


def _numbers(state: dict[str, Any], cluster: dict[str, Any]) -> dict[str, float]:
    replicas = cluster.get("replicas") or ()
    return {
        "events": state.get("messages", 0),
        "last_sequence": state.get("last_seq", 0),
        "bytes": state.get("bytes", 0),
        "replicas_missing": sum(bool(one.get("offline") or not one.get("current")) for one in replicas),
        "replica_lag": max((one.get("lag", 0) for one in replicas), default=0),
    }
