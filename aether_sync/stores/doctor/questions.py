"""The requests of the doctor to the server. They change nothing."""

import json
import os
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from http.client import HTTPException
from typing import IO, Any, NamedTuple
from urllib.error import HTTPError

import msgspec

from ..._nats.channel import Channel
from ..._nats.client import TLSState
from ..._runtime.deadline import Deadline
from ..._values.clock import Datetime, monotonic, now
from ...connection import Connection, channel_of
from ...errors import AetherError, StoreUnavailableError
from .._jetstream.api import JetStream
from .._jetstream.error_codes import ErrorCode
from .._jetstream.messages import Record, command
from .._jetstream.names import Names
from .._jetstream.saves import torn_saves
from .._jetstream.stream import settings
from .findings import Answers
from .rights import Tried, Use, try_all, uses_of_bus, uses_of_store

__all__ = ["Wanted", "ask_for_all"]

_PATIENCE = 1.0  # seconds to wait for what not every server answers
_ROUND_TRIPS = 5  # requests, of which the fastest counts
_LATEST = 100_000  # records that are searched for torn saves, which takes a second or two
_PAGE = 5_000  # records in one answer
_USER = "$SYS.REQ.USER.INFO"  # answers with the user's rights, and by which clock (nats-server 2.9)

_read_moment = partial(msgspec.convert, type=Datetime)


class Wanted(NamedTuple):
    """What the doctor is to look at."""

    names: Names | None  # of the store; None for none
    replicas: int  # how many the stream should have
    prefix: str  # of the bus
    patterns: tuple[str, ...] | None  # of the bus; None if they are not known
    monitor: str | None  # the URL of the server's monitoring port; None not to ask it


def ask_for_all(connection: Connection, wanted: Wanted, timeout: float) -> Answers:
    """Ask the server everything that the checks need.

    Args:
        connection: The connection to the server.
        wanted: What is to be looked at.
        timeout: Seconds for each request.

    Raises:
        ConnectError: There is no server.
    """
    connection.start()
    asking = _Asking(channel_of(connection, for_store=wanted.names is not None), timeout)
    monitored = partial(_monitored, wanted.monitor, timeout)
    user = asking.user()
    answers = Answers(
        wanted=None if wanted.names is None else settings(wanted.names, wanted.replicas),
        server=connection.server_info(),
        tls=asking.tls(),
        user=user.answer,
        round_trip=user.round_trip,
        skew=_skew(user.answer.get("server", {}).get("time"), user.middle),
        monitor=(monitor := monitored("varz")).answer,
        health=monitored("healthz").answer,
        jetstream=monitored("jsz").answer,
        routes=monitored("routez").answer,
        moment=now().timestamp(),
    )
    if answers.skew is None:
        answers = replace(answers, skew=_skew(monitor.answer.get("now"), monitor.middle))
    if wanted.names is not None:
        answers = _of_store(asking, wanted.names, answers)
    return _with_rights(asking, wanted, answers)


def _of_store(asking: "_Asking", names: Names, answers: Answers) -> Answers:
    account = asking.fastest(partial(asking.ask, "INFO"))
    answers = replace(answers, account=account.answer, round_trip=account.round_trip or answers.round_trip)
    if not answers.has_jetstream:
        return answers
    info = asking.fastest(partial(asking.ask, f"STREAM.INFO.{names.stream}"))
    looked = _Looked(asking, names, info.answer)
    skew = _skew(info.answer.get("ts"), info.middle)
    return replace(
        answers,
        stream=info.answer,
        snapshots=asking.ask(f"STREAM.INFO.{names.snapshots}"),
        dead_letters=asking.ask(f"STREAM.INFO.{names.dead_letters}"),
        consumers=asking.consumers(names.stream) if "config" in info.answer else [],
        skew=answers.skew if skew is None else skew,
        torn=list(torn_saves(looked)),
        looked_through=looked.count,
    )


def _with_rights(asking: "_Asking", wanted: Wanted, answers: Answers) -> Answers:
    """Try the rights, unless the server has said that there are no limits to them."""
    if "permissions" not in answers.user.get("data", {"permissions": None}):
        return answers
    uses = uses_of_bus(wanted.prefix, wanted.patterns)
    if wanted.names is not None and answers.has_jetstream:
        uses += uses_of_store(wanted.names, makes=not answers.has_stream)
    try:
        return replace(answers, rights=asking.rights(uses))
    except AetherError as error:
        return replace(answers, untried=str(error))


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
    round_trip: float | None  # seconds; None if there was no answer
    middle: Datetime  # between request and answer, by this machine's clock


class _Asking:
    """Puts requests to the server. An error becomes the answer, in the shape of the server's own errors."""

    def __init__(self, channel: Channel, timeout: float) -> None:
        self._channel = channel
        self._jetstream = JetStream(channel)
        self._timeout = timeout

    def tls(self) -> TLSState | None:
        """Return how the connection is encrypted."""
        return self._channel.tls(Deadline(self._timeout))

    def rights(self, uses: list[Use]) -> list[Tried]:
        """Try all rights of some uses."""
        return try_all(self._channel, uses, Deadline(self._timeout))

    def user(self) -> _Timed:
        """Ask who this user is, what he may do, and by which clock; no answer if he may not get answers."""
        inbox = f"_INBOX.{os.urandom(12).hex()}.*"
        try:
            if not self._channel.may_subscribe([inbox], Deadline(self._timeout))[inbox]:
                return _Timed(_error(f"no right to subscribe to {inbox!r}"), None, now())
        except AetherError as error:
            return _Timed(_error(str(error)), None, now())
        return self.fastest(self._ask_user)

    def _ask_user(self) -> dict[str, Any]:
        deadline = Deadline(min(self._timeout, _PATIENCE))
        try:
            call = self._channel.request((_USER,), lambda inbox: command(_USER, inbox, b"", b""), deadline)
            (message,) = call.wait(deadline)
            found = json.loads(message[3] or "{}")
        except (AetherError, ValueError) as error:
            return _error(str(error))
        return found if isinstance(found, dict) and found else _error("the server has no system account")

    def ask(self, subject: str, **body: Any) -> dict[str, Any]:
        """Put a request to the API."""
        try:
            return self._jetstream.request(subject, body, Deadline(self._timeout))
        except StoreUnavailableError as error:
            has_no_leader = f"({ErrorCode.JSClusterNotAvailErr.value})" in str(error)
            code = ErrorCode.JSClusterNotAvailErr if has_no_leader else ErrorCode.JSNotEnabledForAccountErr
            return _error(str(error), code)
        except AetherError as error:
            return _error(str(error))

    def fastest(self, ask: Callable[[], dict[str, Any]]) -> _Timed:
        """Put a request several times, unless it fails, and return the fastest answer."""
        found: list[tuple[float, _Timed]] = []
        for _ in range(_ROUND_TRIPS):
            began, clock = monotonic(), now()
            answer = ask()
            took = monotonic() - began
            has_failed = "error" in answer
            found.append((took, _Timed(answer, None if has_failed else took, clock + timedelta(seconds=took / 2))))
            if has_failed:
                break
        return min(found, key=lambda one: one[0])[1]

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


def _skew(moment: object, middle: Datetime) -> float | None:
    """Return how far the server's clock is ahead of this machine's, in seconds; half a round trip more or less.

    Args:
        moment: What the server has said; None if it has said nothing.
        middle: The middle of that request, by this machine's clock.
    """
    try:
        return None if moment is None else float((_read_moment(moment) - middle).total_seconds())
    except msgspec.ValidationError:
        return None


def _monitored(monitor: str | None, timeout: float, what: str) -> _Timed:
    """Return an answer of a monitoring port; an empty one if there is none to be asked."""
    began = now()
    if monitor is None:
        return _Timed({}, None, began)
    try:
        with _opened(f"{monitor.rstrip('/')}/{what}", timeout) as answer:
            found = json.load(answer)
    except (OSError, ValueError, HTTPException) as error:
        return _Timed(_error(f"{monitor} does not answer ({error})"), None, began)
    ended = now()
    if not isinstance(found, dict):
        found = _error(f"{monitor} is no monitoring port of a nats-server")
    return _Timed(found, (ended - began).total_seconds(), began + (ended - began) / 2)


def _opened(url: str, timeout: float) -> IO[bytes]:
    try:
        answer: IO[bytes] = urllib.request.urlopen(url, timeout=timeout)
    except HTTPError as error:  # the answer of a server that is not healthy
        return error
    return answer
