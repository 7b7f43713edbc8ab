"""``Answers`` and ``Finding``: what the doctor examines, and what it says."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from .._jetstream.error_codes import ErrorCode
from .._jetstream.saves import TornSave

__all__ = ["NO_JETSTREAM", "Answers", "Finding", "Level", "first_line", "is_well"]

#: The server's errors if JetStream is not enabled for the account, or not at all.
NO_JETSTREAM = {ErrorCode.JSNotEnabledForAccountErr, ErrorCode.JSNotEnabledErr}


class Level(Enum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check.

    Attributes:
        level: How bad it is.
        topic: What was checked, in a word or two.
        message: What was found.
        advice: What to do; "" if nothing has to be done.
    """

    level: Level
    topic: str
    message: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The server's answers. One that has an ``error`` says why there is no answer.

    Attributes:
        wanted: The settings that the stream would be made with.
        server: ``INFO``, of the server that is connected.
        account: ``$JS.API.INFO``.
        stream: ``STREAM.INFO`` of the events.
        snapshots: ``STREAM.INFO`` of the snapshots.
        dead_letters: ``STREAM.INFO`` of the dead letters.
        consumers: The consumers of ``CONSUMER.LIST``.
        round_trip: Seconds of a request and its answer.
        skew: Seconds by which the server's clock is ahead of the local one; None if that is not known.
        monitor: ``/varz`` of the monitoring port; empty if that was not asked.
        health: ``/healthz`` of the monitoring port; empty if that was not asked.
        torn: Saves of which only a part is stored, among the latest records.
        looked_through: The number of these records.
    """

    wanted: dict[str, Any]
    server: dict[str, Any] = field(default_factory=dict)
    account: dict[str, Any] = field(default_factory=dict)
    stream: dict[str, Any] = field(default_factory=dict)
    snapshots: dict[str, Any] = field(default_factory=dict)
    dead_letters: dict[str, Any] = field(default_factory=dict)
    consumers: list[dict[str, Any]] = field(default_factory=list)
    round_trip: float = 0.0
    skew: float | None = None
    monitor: dict[str, Any] = field(default_factory=dict)
    health: dict[str, Any] = field(default_factory=dict)
    torn: list[TornSave] = field(default_factory=list)
    looked_through: int = 0

    @property
    def has_stream(self) -> bool:
        """Whether the stream is there and could be read."""
        return "config" in self.stream

    @property
    def has_jetstream(self) -> bool:
        """Whether the server has JetStream for this account."""
        return not ("error" in self.account and self.account["error"].get("err_code") in NO_JETSTREAM)

    @property
    def in_cluster(self) -> bool:
        """Whether the server is one of a cluster."""
        return bool(self.server.get("cluster") or self.stream.get("cluster", {}).get("name"))


def is_well(findings: list[Finding]) -> bool:
    """Whether no finding is bad."""
    return all(finding.level is not Level.BAD for finding in findings)


def first_line(finding: Finding) -> str:
    """Return a finding as one line, without the advice."""
    return f"{finding.level.value:<5} {finding.topic}: {finding.message}"
