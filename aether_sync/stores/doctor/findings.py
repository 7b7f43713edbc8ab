"""``Answers`` and ``Finding``: what the doctor examines, and what it says."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from ..._nats.client import TLSState
from .._jetstream.error_codes import ErrorCode
from .._jetstream.saves import TornSave
from .rights import Tried

__all__ = [
    "NO_JETSTREAM", "NO_RIGHT", "Answers", "Finding", "Level", "bad", "filled", "first_line", "is_well", "ok",
    "size_of", "warn", "without",
]  # fmt: skip

#: In the place of a server's error: it has refused to pass the question on.
NO_RIGHT = -1

#: The server's errors if JetStream is not enabled for the account, or not at all, or has no leader.
NO_JETSTREAM = {ErrorCode.JSNotEnabledForAccountErr, ErrorCode.JSNotEnabledErr, ErrorCode.JSClusterNotAvailErr}

_NEARLY_FULL, _FULL = 0.8, 0.95
_SECRET = 4  # characters: shorter ones occur in any text


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check of :func:`diagnose` has found.

    Attributes:
        level: How bad it is: ``"ok"``; ``"warn"``: look at it; or ``"bad"``: something does not work, or will be lost.
        topic: What was checked, in a word or two.
        message: What was found.
        advice: What to do; "" if nothing has to be done.
    """

    level: Level
    topic: str
    message: str
    advice: str = ""


def ok(topic: str, message: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(Level.OK, topic, message)


def warn(topic: str, message: str, advice: str) -> Finding:
    """Return a finding that somebody should look at."""
    return Finding(Level.WARN, topic, message, advice)


def bad(topic: str, message: str, advice: str) -> Finding:
    """Return a finding of something that does not work, or will be lost."""
    return Finding(Level.BAD, topic, message, advice)


def filled(topic: str, what: str, used: float, limit: float, consequence: str) -> Iterator[Finding]:
    """Check how full something is, in bytes.

    Args:
        topic: The topic of the finding.
        what: What is full.
        used: How much is used.
        limit: How much there may be; 0 or less if there is no limit.
        consequence: What happens when it is full.
    """
    if limit <= 0:
        return
    share = used / limit
    words = f"{what} is {share:.0%} full: {size_of(used)} of {size_of(limit)}"
    if share >= _FULL:
        yield bad(topic, words, f"raise the limit now: when it is full, {consequence}")
    elif share >= _NEARLY_FULL:
        yield warn(topic, words, f"raise the limit: when it is full, {consequence}")
    else:
        yield ok(topic, words)


def size_of(size: float) -> str:
    """Return a number of bytes in words."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The server's answers. One that has an ``error`` says why there is no answer, and whether none came in time.

    Attributes:
        wanted: The settings that the stream would be made with; None if no store is looked at.
        prefix: The prefix of the bus.
        server: ``INFO``, of the server that is connected.
        user: ``$SYS.REQ.USER.INFO``.
        tls: How the connection is encrypted; None if it is not.
        rights: The trials of what the user may do; empty if nothing was tried.
        untried: Why the rights were not tried, or not all of them; "" if they were.
        account: ``$JS.API.INFO``.
        stream: ``STREAM.INFO`` of the events.
        snapshots: ``STREAM.INFO`` of the snapshots.
        dead_letters: ``STREAM.INFO`` of the dead letters.
        consumers: The consumers of ``CONSUMER.LIST``.
        gets_answers: Whether the user may subscribe to the inbox that answers come to.
        round_trip: Seconds of a request and its answer; None if nothing was answered.
        skew: Seconds by which the server's clock is ahead of the local one; None if that is not known.
        monitor_url: The URL of the monitoring port that was given; "" if none was.
        monitor: ``/varz`` of the monitoring port; empty if that was not asked.
        health: ``/healthz`` of the monitoring port; empty if that was not asked.
        jetstream: ``/jsz`` of the monitoring port; empty if that was not asked.
        routes: ``/routez`` of the monitoring port; empty if that was not asked.
        torn: Saves of which only a part is stored, among the latest records.
        looked_through: The number of these records.
        no_events: The sequence and the subject of those of them that are no events.
        has_types: Whether it is known which types of events the program knows.
        unknown: Types of events and their versions that it does not know, among these records: how many there are, and
            the sequence of the last.
        moment: When the questions were put, in seconds since 1970.
    """

    wanted: dict[str, Any] | None
    prefix: str = "aether"
    server: dict[str, Any] = field(default_factory=dict)
    user: dict[str, Any] = field(default_factory=dict)
    tls: TLSState | None = None
    rights: list[Tried] = field(default_factory=list)
    untried: str = ""
    account: dict[str, Any] = field(default_factory=dict)
    stream: dict[str, Any] = field(default_factory=dict)
    snapshots: dict[str, Any] = field(default_factory=dict)
    dead_letters: dict[str, Any] = field(default_factory=dict)
    consumers: list[dict[str, Any]] = field(default_factory=list)
    gets_answers: bool = True
    round_trip: float | None = None
    skew: float | None = None
    monitor_url: str = ""
    monitor: dict[str, Any] = field(default_factory=dict)
    health: dict[str, Any] = field(default_factory=dict)
    jetstream: dict[str, Any] = field(default_factory=dict)
    routes: dict[str, Any] = field(default_factory=dict)
    torn: list[TornSave] = field(default_factory=list)
    looked_through: int = 0
    no_events: list[tuple[int, str]] = field(default_factory=list)
    has_types: bool = False
    unknown: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    moment: float = 0.0

    @property
    def has_stream(self) -> bool:
        """Whether the stream is there and could be read."""
        return "config" in self.stream

    @property
    def has_jetstream(self) -> bool:
        """Whether the server has JetStream for this account, and answers."""
        error = self.account.get("error", {})
        return error.get("err_code") not in NO_JETSTREAM and not error.get("is_silent")

    def refuses(self, subject: str) -> bool:
        """Whether the server refused a publish to a subject when the rights were tried."""
        return any(right.subject == subject for one in self.rights for right in one.refused)

    @property
    def in_cluster(self) -> bool:
        """Whether the server is one of a cluster."""
        return bool(self.server.get("cluster") or self.stream.get("cluster", {}).get("name"))

    @property
    def is_local(self) -> bool:
        """Whether the server sees this client on its own machine."""
        address = str(self.server.get("client_ip", ""))
        return address.startswith("127.") or address == "::1"


def is_well(findings: Iterable[Finding]) -> bool:
    """Whether no finding is bad."""
    return all(finding.level is not Level.BAD for finding in findings)


def without(secrets: Collection[str], findings: Iterable[Finding]) -> list[Finding]:
    """Return findings that show no secret, whatever a server has answered."""
    hidden = sorted((one for one in secrets if len(one) >= _SECRET), key=len, reverse=True)

    def clean(text: str) -> str:
        for secret in hidden:
            text = text.replace(secret, "***")
        return text

    return [
        replace(one, topic=clean(one.topic), message=clean(one.message), advice=clean(one.advice)) for one in findings
    ]


def first_line(finding: Finding) -> str:
    """Return a finding as one line, without the advice."""
    return f"{finding.level.value:<5} {finding.topic}: {finding.message}"
