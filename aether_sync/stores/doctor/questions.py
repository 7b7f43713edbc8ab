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
from ...errors import AetherError, PermissionDeniedError, StoreUnavailableError
from .._jetstream.api import JetStream
from .._jetstream.error_codes import ErrorCode
from .._jetstream.messages import Record, command
from .._jetstream.names import Names
from .._jetstream.saves import torn_saves
from .._jetstream.stream import settings
from .findings import NO_RIGHT, Answers
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
    gets_answers = asking.gets_answers()
    user = asking.user() if gets_answers else _Timed(_error("no answers"), None, now())
    server = connection.server_info()
    monitored, figures = _figures(wanted.monitor, timeout, str(server.get("server_id")))
    answers = Answers(
        wanted=None if wanted.names is None else settings(wanted.names, wanted.replicas),
        server=server,
        tls=asking.tls(),
        user=user.answer,
        gets_answers=gets_answers,
        round_trip=user.round_trip,
        skew=_skew(user.answer.get("server", {}).get("time"), user.middle),
        monitor_url=wanted.monitor or "",
        monitor=monitored.answer,
        health=figures.get("health", {}),
        jetstream=figures.get("jetstream", {}),
        routes=figures.get("routes", {}),
        moment=now().timestamp(),
    )
    if answers.skew is None:
        answers = replace(answers, skew=_skew(monitored.answer.get("now"), monitored.middle))
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
        is_missing = answers.stream.get("error", {}).get("err_code") == ErrorCode.JSStreamNotFoundErr
        uses += uses_of_store(wanted.names, makes=is_missing)
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

    def gets_answers(self) -> bool:
        """Whether the user may get answers; if the server does not say so, none are expected."""
        inbox = f"_INBOX.{os.urandom(12).hex()}.*"
        try:
            return self._channel.may_subscribe([inbox], Deadline(self._timeout))[inbox]
        except AetherError:
            return False

    def user(self) -> _Timed:
        """Ask who this user is, what he may do, and by which clock."""
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
        except PermissionDeniedError as error:
            return _error(str(error), NO_RIGHT)
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


def _figures(url: str | None, timeout: float, server_id: str) -> tuple[_Timed, dict[str, dict[str, Any]]]:
    """Ask a monitoring port.

    Args:
        url: Its URL; None if there is none to be asked.
        timeout: Seconds for each answer.
        server_id: The server that is examined.

    Returns:
        Its ``/varz``, and its other answers, by field. If it is neither that server's nor of one with a route to that,
        an error, and nothing else: it may be of another installation.
    """
    monitor = _Timed({}, None, now()) if url is None else _monitored(url, timeout, "varz")
    if url is None or "error" in monitor.answer:
        return monitor, {}
    if not isinstance(monitor.answer.get("server_id"), str):
        return monitor._replace(answer=_error(f"{url} is no monitoring port of a nats-server")), {}
    routes = _monitored(url, timeout, "routez").answer
    peers = {route.get("remote_id") for route in routes.get("routes") or ()}
    if server_id not in {monitor.answer["server_id"], *peers}:
        name = monitor.answer.get("server_name")
        return monitor._replace(answer=_error(f"{url} is of another server, {name!r}, with no route to this one")), {}
    others = {"health": _monitored(url, timeout, "healthz").answer, "jetstream": _monitored(url, timeout, "jsz").answer}
    return monitor, {"routes": routes, **others}


def _monitored(url: str, timeout: float, what: str) -> _Timed:
    """Return an answer of a monitoring port."""
    began = now()
    try:
        with _opened(f"{url.rstrip('/')}/{what}", timeout) as answer:
            found = json.load(answer)
    except ValueError:  # no JSON
        found = None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        return _Timed(_error(f"{url} does not answer ({reason})"), None, began)
    ended = now()
    if not isinstance(found, dict):
        found = _error(f"{url} is no monitoring port of a nats-server: there is no /{what} below it")
    return _Timed(found, (ended - began).total_seconds(), began + (ended - began) / 2)


def _opened(url: str, timeout: float) -> IO[bytes]:
    try:
        answer: IO[bytes] = urllib.request.urlopen(url, timeout=timeout)
    except HTTPError as error:  # the answer of a server that is not healthy
        return error
    return answer
