"""What a doctor is told and says."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from .._jetstream.error_codes import ErrorCode
from .._jetstream.saves import TornSave

__all__ = ["NO_JETSTREAM", "Answers", "Finding", "Level", "first_line", "is_well"]

#: What the server answers where there is no JetStream: not for this account, or not at all.
NO_JETSTREAM = {ErrorCode.JSNotEnabledForAccountErr, ErrorCode.JSNotEnabledErr}


class Level(Enum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was looked at.

    Attributes:
        level: How bad it is.
        topic: What was looked at, in a word or two.
        message: What was found.
        advice: What to do; nothing if it is well.
    """

    level: Level
    topic: str
    message: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What was asked, and answered. An answer with an ``error`` says why there is none.

    Attributes:
        wanted: The settings that the stream would be made with.
        server: ``INFO``, of the server that is connected.
        account: ``$JS.API.INFO``.
        stream: ``STREAM.INFO`` of the events.
        snapshots: ``STREAM.INFO`` of the snapshots.
        dead_letters: ``STREAM.INFO`` of what consumers gave up.
        consumers: Those of ``CONSUMER.LIST``.
        round_trip: Seconds.
        skew: Seconds that the server's clock is before the local one; None if it was not seen.
        monitor: ``/varz``; empty if it was not asked for.
        health: ``/healthz``, as well.
        torn: Saves of which a part is stored, among the latest records.
        looked_through: How many records those are.
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
        """Whether the stream is there, and was seen."""
        return "config" in self.stream

    @property
    def has_jetstream(self) -> bool:
        """Whether JetStream has answered."""
        return not ("error" in self.account and self.account["error"].get("err_code") in NO_JETSTREAM)

    @property
    def in_cluster(self) -> bool:
        """Whether there are several servers."""
        return bool(self.server.get("cluster") or self.stream.get("cluster", {}).get("name"))


def is_well(findings: list[Finding]) -> bool:
    """Whether nothing is bad."""
    return all(finding.level is not Level.BAD for finding in findings)


def first_line(finding: Finding) -> str:
    """Say a finding in a line, without what to do."""
    return f"{finding.level.value:<5} {finding.topic}: {finding.message}"
