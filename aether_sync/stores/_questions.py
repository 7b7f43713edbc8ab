"""What the doctor asks the server."""

import json
import urllib.request
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

import msgspec

from .._clock import Datetime, monotonic, now
from .._deadline import Deadline
from ..connection import Connection
from ..errors import AetherError, InvalidOptionError, StoreUnavailableError
from ._findings import NO_JETSTREAM, Answers
from ._jetstream import JetStream
from ._names import Names
from ._stream import settings

__all__ = ["ask_for_all"]

_ROUND_TRIPS = 5  # of which the fastest counts

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
    """Ask the server all there is to know of a store.

    Args:
        connection: To the server.
        stream: The store's.
        namespace: As well.
        replicas: How many there should be.
        monitor: The URL of the server's monitoring port; None if it cannot be asked.
        timeout: Seconds for each question.

    Raises:
        ConnectError: There is no server.
    """
    if monitor is not None and not monitor.startswith(("http://", "https://")):
        raise InvalidOptionError(f"a monitoring port has a URL such as 'http://host:8222', not {monitor!r:.80}")
    names = Names(stream, namespace)
    connection.start()
    asking = _Asking(JetStream(connection), timeout)
    account = asking.fastest("INFO")
    answers = Answers(
        wanted=settings(names, replicas),
        server=connection.server_info(),
        account=account.answer,
        round_trip=account.round_trip,
        monitor={} if monitor is None else _varz(monitor, timeout),
    )
    if not answers.has_jetstream:
        return answers
    info = asking.fastest(f"STREAM.INFO.{names.stream}")
    return replace(
        answers,
        stream=info.answer,
        snapshots=asking.ask(f"STREAM.INFO.{names.snapshots}"),
        poison=asking.ask(f"STREAM.INFO.{names.poison}"),
        consumers=asking.consumers(names.stream) if "config" in info.answer else [],
        skew=_skew(info),
    )


class _Timed(NamedTuple):
    answer: dict[str, Any]
    round_trip: float  # seconds
    middle: Datetime  # of asking and answer, by this machine's clock


class _Asking:
    """Puts questions; what goes wrong with one is its answer, in the shape of the server's own errors."""

    def __init__(self, jetstream: JetStream, timeout: float) -> None:
        self._jetstream = jetstream
        self._timeout = timeout

    def ask(self, subject: str, **body: Any) -> dict[str, Any]:
        """Put a question to the API."""
        try:
            return self._jetstream.request(subject, body, Deadline(self._timeout))
        except StoreUnavailableError as error:
            return _error(str(error), min(NO_JETSTREAM))
        except AetherError as error:
            return _error(str(error))

    def fastest(self, subject: str) -> _Timed:
        """Put a question several times, unless it goes wrong."""
        found = []
        for _ in range(_ROUND_TRIPS):
            began, clock = monotonic(), now()
            answer = self.ask(subject)
            took = monotonic() - began
            found.append(_Timed(answer, took, clock + timedelta(seconds=took / 2)))
            if "error" in answer:
                break
        return min(found, key=lambda one: one.round_trip)

    def consumers(self, stream: str) -> list[dict[str, Any]]:
        """Return all consumers; none if they cannot be seen."""
        try:
            return self._jetstream.consumers(stream, Deadline(self._timeout))
        except AetherError:
            return []


def _error(description: str, code: int = 0) -> dict[str, Any]:
    return {"error": {"description": description, "err_code": code}}


def _skew(info: _Timed) -> float | None:
    """How far the server's clock is before this machine's, in seconds; half a round trip more or less."""
    text = info.answer.get("ts")
    if text is None:
        return None
    seconds: float = (_read_moment(text) - info.middle).total_seconds()
    return seconds


def _varz(monitor: str, timeout: float) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"{monitor.rstrip('/')}/varz", timeout=timeout) as answer:
            found = json.load(answer)
    except (OSError, ValueError) as error:
        return _error(f"{monitor} does not answer ({error})")
    return found if isinstance(found, dict) else _error(f"{monitor} is no monitoring port of a nats-server")
