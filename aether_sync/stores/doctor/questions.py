"""The requests of the doctor to the server. They change nothing."""

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import IO, Any, NamedTuple
from urllib.error import HTTPError

import msgspec

from ..._runtime.deadline import Deadline
from ..._values.clock import Datetime, monotonic, now
from ...connection import Connection, channel_of
from ...errors import AetherError, InvalidOptionError, StoreUnavailableError
from .._jetstream.api import JetStream
from .._jetstream.error_codes import ErrorCode
from .._jetstream.messages import Record
from .._jetstream.names import Names
from .._jetstream.saves import torn_saves
from .._jetstream.stream import settings
from .findings import Answers

__all__ = ["ask_for_all"]

_ROUND_TRIPS = 5  # requests, of which the fastest counts
_LATEST = 100_000  # records that are searched for torn saves, which takes a second or two
_PAGE = 5_000  # records in one answer

_read_moment = partial(msgspec.convert, type=Datetime)


def ask_for_all(
    connection: Connection,
    stream: str,
    *,
    namespace: str | None = None,
    replicas: int = 1,
    monitor: str | None = None,
    timeout: float = 5.0,
) -> Answers:
    """Ask the server everything that the checks need.

    Args:
        connection: The connection to the server.
        stream: The store's stream, as the user calls it.
        namespace: The store's namespace; None for none.
        replicas: How many replicas the stream should have.
        monitor: The URL of the server's monitoring port; None not to ask it.
        timeout: Seconds for each request.

    Raises:
        ConnectError: There is no server.
        InvalidOptionError: The URL of the monitoring port is not one, or the connection is of no use for a store.
    """
    if monitor is not None and not monitor.startswith(("http://", "https://")):
        raise InvalidOptionError(f"a monitoring port has a URL such as 'http://host:8222', not {monitor!r:.80}")
    names = Names(stream, namespace)
    channel = channel_of(connection, for_store=True)
    connection.start()
    asking = _Asking(JetStream(channel), timeout)
    account = asking.fastest("INFO")
    answers = Answers(
        wanted=settings(names, replicas),
        server=connection.server_info(),
        account=account.answer,
        round_trip=account.round_trip,
        monitor={} if monitor is None else _monitored(monitor, "varz", timeout),
        health={} if monitor is None else _monitored(monitor, "healthz", timeout),
    )
    if not answers.has_jetstream:
        return answers
    info = asking.fastest(f"STREAM.INFO.{names.stream}")
    looked = _Looked(asking, names, info.answer)
    return replace(
        answers,
        stream=info.answer,
        snapshots=asking.ask(f"STREAM.INFO.{names.snapshots}"),
        dead_letters=asking.ask(f"STREAM.INFO.{names.dead_letters}"),
        consumers=asking.consumers(names.stream) if "config" in info.answer else [],
        skew=_skew(info),
        torn=list(torn_saves(looked)),
        looked_through=looked.count,
    )


class _Looked:
    """The latest records of a stream, as far as they could be read in time."""

    def __init__(self, asking: "_Asking", names: Names, info: dict[str, Any]) -> None:
        self._asking = asking
        self._names = names
        self._last = info.get("state", {}).get("last_seq", 0)
        self.count = 0

    def __iter__(self) -> Iterator[Record]:
        at = max(0, self._last - _LATEST)
        while at < self._last:
            page = self._asking.records(self._names, at + 1, _PAGE)
            self.count += len(page)
            yield from page
            at = page[-1].sequence if page else self._last


class _Timed(NamedTuple):
    answer: dict[str, Any]
    round_trip: float  # seconds
    middle: Datetime  # between request and answer, by this machine's clock


class _Asking:
    """Puts requests to the server. An error becomes the answer, in the shape of the server's own errors."""

    def __init__(self, jetstream: JetStream, timeout: float) -> None:
        self._jetstream = jetstream
        self._timeout = timeout

    def ask(self, subject: str, **body: Any) -> dict[str, Any]:
        """Put a request to the API."""
        try:
            return self._jetstream.request(subject, body, Deadline(self._timeout))
        except StoreUnavailableError as error:
            return _error(str(error), ErrorCode.JSNotEnabledForAccountErr)
        except AetherError as error:
            return _error(str(error))

    def fastest(self, subject: str) -> _Timed:
        """Put a request several times, unless it fails, and return the fastest answer."""
        found = []
        for _ in range(_ROUND_TRIPS):
            began, clock = monotonic(), now()
            answer = self.ask(subject)
            took = monotonic() - began
            found.append(_Timed(answer, took, clock + timedelta(seconds=took / 2)))
            if "error" in answer:
                break
        return min(found, key=lambda one: one.round_trip)

    def records(self, names: Names, sequence: int, count: int) -> list[Record]:
        """Return records from a sequence on; ``[]`` if they cannot be read."""
        try:
            page = self._jetstream.ask_page(names.stream, names.all_events, sequence, count, Deadline(self._timeout))
            return page(Deadline(self._timeout)).records
        except AetherError:
            return []

    def consumers(self, stream: str) -> list[dict[str, Any]]:
        """Return all consumers; ``[]`` if they cannot be read."""
        try:
            return self._jetstream.consumers(stream, Deadline(self._timeout))
        except AetherError:
            return []


def _error(description: str, code: int = 0) -> dict[str, Any]:
    return {"error": {"description": description, "err_code": code}}


def _skew(info: _Timed) -> float | None:
    """Return how far the server's clock is ahead of this machine's, in seconds; half a round trip more or less."""
    text = info.answer.get("ts")
    if text is None:
        return None
    seconds: float = (_read_moment(text) - info.middle).total_seconds()
    return seconds


def _monitored(monitor: str, what: str, timeout: float) -> dict[str, Any]:
    """Return an answer of a monitoring port."""
    url = f"{monitor.rstrip('/')}/{what}"
    try:
        with _opened(url, timeout) as answer:
            found = json.load(answer)
    except (OSError, ValueError) as error:
        return _error(f"{monitor} does not answer ({error})")
    return found if isinstance(found, dict) else _error(f"{monitor} is no monitoring port of a nats-server")


def _opened(url: str, timeout: float) -> IO[bytes]:
    try:
        answer: IO[bytes] = urllib.request.urlopen(url, timeout=timeout)
    except HTTPError as error:  # the answer of a server that is not healthy
        return error
    return answer
