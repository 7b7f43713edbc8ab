"""The requests of the doctor to the server. They change nothing."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

import msgspec

from ..._codec.decoding import decode_stored_run
from ..._nats.channel import Channel
from ..._nats.client import TLSState
from ..._runtime.deadline import Deadline
from ..._values.clock import Datetime, monotonic, now
from ...connection import Connection, channel_of, secrets_in
from ...errors import (
    AetherError,
    DeadlineExceededError,
    DecodingError,
    EventTypeError,
    PermissionDeniedError,
    StoreUnavailableError,
)
from ...event_types import SCHEMA_VERSION, EventTypes
from ...events import Event
from .._jetstream.api import JetStream
from .._jetstream.error_codes import ErrorCode
from .._jetstream.messages import Record, command
from .._jetstream.names import Names
from .._jetstream.saves import torn_saves
from .._jetstream.stream import settings
from .findings import NO_RIGHT, Answers
from .monitoring import MonitoringPort, SilentPortError
from .rights import Tried, Use, try_all, uses_of_bus, uses_of_store
from .shapes import AccountInfo, ConsumerInfo, Failed, Healthz, Jsz, Routez, StreamInfo, UserInfo, Varz, has_shape

__all__ = ["Wanted", "ask_for_all"]

_PATIENCE = 1.0  # seconds to wait for what not every server answers
_ROUND_TRIPS = 5  # requests, of which the fastest counts
_LATEST = 100_000  # records that are searched for torn saves, at most
_LATEST_BYTES = 32 * 2**20  # of them, at most: of small ones, that takes a second or two
_FEW = 16  # records that are read first, whatever their size is
_PAGE = 5_000  # records in one answer
_STRANGE = "the answer is none of a nats-server"
_USER = "$SYS.REQ.USER.INFO"  # answers with the user's rights, and by which clock (nats-server 2.9)

_SHAPES = {"varz": Varz, "healthz": Healthz, "jsz": Jsz, "routez": Routez}  # by the path of the monitoring port
_read_moment = partial(msgspec.convert, type=Datetime)


class Wanted(NamedTuple):
    """What the doctor is to look at."""

    names: Names | None  # of the store; None for none
    replicas: int  # how many the stream should have
    prefix: str  # of the bus
    patterns: tuple[str, ...] | None  # of the bus; None if they are not known
    monitor: MonitoringPort | None  # of the server; None not to ask it
    types: EventTypes | None = None  # that the program knows; None not to look at types


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
    if user.answer.get("data", {}).get("user") in secrets_in(connection):  # the token, from a server before 2.12
        del user.answer["data"]["user"]
    server = connection.server_info()
    monitored, figures = _figures(wanted.monitor, timeout, str(server.get("server_id")))
    answers = Answers(
        wanted=None if wanted.names is None else settings(wanted.names, wanted.replicas),
        prefix=wanted.prefix,
        server=server,
        tls=asking.tls(),
        user=user.answer,
        gets_answers=gets_answers,
        round_trip=user.round_trip,
        skew=_skew(user.answer.get("server", {}).get("time"), user.middle),
        monitor_url="" if wanted.monitor is None else str(wanted.monitor),
        monitor=monitored.answer,
        health=figures.get("health", {}),
        jetstream=figures.get("jetstream", {}),
        routes=figures.get("routes", {}),
        moment=now().timestamp(),
    )
    if answers.skew is None:
        answers = replace(answers, skew=_skew(monitored.answer.get("now"), monitored.middle))
    if wanted.names is not None:
        answers = _of_store(asking, wanted.names, wanted.types, answers)
    return _with_rights(asking, wanted, answers)


def _of_store(asking: "_Asking", names: Names, types: EventTypes | None, answers: Answers) -> Answers:
    account = asking.fastest(partial(asking.ask, "INFO", AccountInfo))
    answers = replace(answers, account=account.answer, round_trip=account.round_trip or answers.round_trip)
    if not answers.has_jetstream:
        return answers
    info = asking.fastest(partial(asking.ask, f"STREAM.INFO.{names.stream}", StreamInfo))
    unknown: dict[tuple[str, str], tuple[int, int]] = {}
    no_events: list[tuple[int, str]] = []
    look = partial(_note, types, unknown, no_events)
    latest = asking.latest(names, info.answer.get("state", {}).get("last_seq", 0), look)
    skew = _skew(info.answer.get("ts"), info.middle)
    return replace(
        answers,
        stream=info.answer,
        snapshots=asking.ask(f"STREAM.INFO.{names.snapshots}", StreamInfo),
        dead_letters=asking.ask(f"STREAM.INFO.{names.dead_letters}", StreamInfo),
        consumers=asking.consumers(names.stream) if "config" in info.answer else [],
        skew=answers.skew if skew is None else skew,
        torn=list(torn_saves(latest)),
        looked_through=len(latest),
        no_events=sorted(no_events),
        has_types=types is not None,
        unknown=unknown,
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
            found: dict[str, Any] = json.loads(message[3] or "{}")
        except (AetherError, ValueError) as error:
            return _error(str(error))
        if not found:
            return _error("the server has no system account")
        return found if has_shape(found, UserInfo) else _error(_STRANGE)

    def ask(self, subject: str, shape: type) -> dict[str, Any]:
        """Put a request to the API, whose answer has to have a shape."""
        try:
            answer = self._jetstream.request(subject, {}, Deadline(self._timeout))
            return answer if has_shape(answer, Failed if "error" in answer else shape) else _error(_STRANGE)
        except DeadlineExceededError as error:
            return _error(str(error), is_silent=True)
        except StoreUnavailableError as error:
            has_no_leader = f"({ErrorCode.JSClusterNotAvailErr.value})" in str(error)
            code = ErrorCode.JSClusterNotAvailErr if has_no_leader else ErrorCode.JSNotEnabledForAccountErr
            return _error(str(error), code)
        except PermissionDeniedError as error:
            return _error(str(error), NO_RIGHT)
        except (AetherError, ValueError) as error:
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

    def latest(self, names: Names, last: int, look: Callable[[list[Record]], object] | None = None) -> list[Record]:
        """Return the latest records without their bodies, as many as can be read within bounds.

        No request of nats-server 2.15 has it leave out the bodies: a direct get has the whole message, and a consumer
        that has headers only would have to be made. So it is read backwards, first a few records, whatever their size
        is, and then more and more of them.

        Args:
            names: The store's.
            last: The sequence of the last record.
            look: Called with parts of these records, with their bodies.
        """
        deadline, left, count = Deadline(self._timeout), _LATEST_BYTES, _FEW
        parts: list[list[Record]] = []
        end, least = last, max(0, last - _LATEST)
        while end > least and left > 0:
            begin = max(least, end - count)
            part, size = self._between(names, begin, end, left, deadline)
            if part is None:
                break
            if look is not None:
                look(part)
            parts.append([one._replace(data=b"") for one in part])
            left, end = left - size, begin
            largest = max(1, size // count)  # on average: with as large ones, the next part is within what is left
            count = min(2 * count, _PAGE, max(1, left // largest))
        return [record for part in reversed(parts) for record in part]

    def _between(
        self, names: Names, begin: int, end: int, most: int, deadline: Deadline
    ) -> tuple[list[Record] | None, int]:
        """Return the records after one sequence, up to another one, and their size in bytes.

        There are none if they cannot all be read in time, or are larger than ``most`` bytes.
        """
        found: list[Record] = []
        size = 0
        while begin < end:
            try:
                page = self._jetstream.ask_page(names.stream, names.all_events, begin + 1, end - begin, deadline)
                records = page(deadline).records
            except AetherError:
                return None, size
            size += sum(len(one.headers) + len(one.data) for one in records)
            if size > most:
                return None, size
            found += [one for one in records if one.sequence <= end]
            begin = records[-1].sequence if records else end
        return found, size

    def consumers(self, stream: str) -> list[dict[str, Any]]:
        """Return all consumers; ``[]`` if they cannot be read."""
        try:
            consumers = self._jetstream.consumers(stream, Deadline(self._timeout))
        except (AetherError, ValueError):
            return []
        return [one for one in consumers if has_shape(one, ConsumerInfo)]


def _note(
    types: EventTypes | None,
    unknown: dict[tuple[str, str], tuple[int, int]],
    no_events: list[tuple[int, str]],
    records: list[Record],
) -> None:
    """Note the records that are no events, and count the events of unknown types by name and version."""
    for record, event in zip(records, decode_stored_run([one.data for one in records]), strict=True):
        if isinstance(event, DecodingError):
            no_events.append((record.sequence, record.subject))
            continue
        if types is None or _is_known(types, event):
            continue
        key = event.event_type, event.metadata.get(SCHEMA_VERSION, "1")
        count, last = unknown.get(key, (0, 0))
        unknown[key] = count + 1, max(last, record.sequence)


def _is_known(types: EventTypes, event: Event) -> bool:
    try:
        return types.knows(event)
    except EventTypeError:  # its version is none
        return False


def _error(description: str, code: int = 0, *, is_silent: bool = False) -> dict[str, Any]:
    return {"error": {"description": description, "err_code": code, "is_silent": is_silent}}


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


def _figures(port: MonitoringPort | None, timeout: float, server_id: str) -> tuple["_Timed", dict[str, dict[str, Any]]]:
    """Ask a monitoring port.

    Args:
        port: The port; None if there is none to be asked.
        timeout: Seconds for each answer.
        server_id: The server that is examined.

    Returns:
        Its ``/varz``, and its other answers, by field. If it is neither that server's nor of one with a route to that,
        an error, and nothing else: it may be of another installation.
    """
    if port is None:
        return _Timed({}, None, now()), {}
    monitor = _monitored(port, timeout, "varz")
    if "error" in monitor.answer:
        return monitor, {}
    routes = _monitored(port, timeout, "routez").answer
    peers = {route.get("remote_id") for route in routes.get("routes") or ()}
    if server_id not in {monitor.answer["server_id"], *peers}:
        name = monitor.answer.get("server_name")
        return monitor._replace(answer=_error(f"{port} is of another server, {name!r}, with no route to this one")), {}
    others = {
        "health": _monitored(port, timeout, "healthz").answer,
        "jetstream": _monitored(port, timeout, "jsz").answer,
    }
    return monitor, {"routes": routes, **others}


def _monitored(port: MonitoringPort, timeout: float, what: str) -> "_Timed":
    """Return an answer of a monitoring port."""
    began = now()
    try:
        status, body = port.fetch(what, timeout)
    except SilentPortError as error:
        return _Timed(_error(f"{port} does not answer ({error})"), None, began)
    ended = now()
    try:
        found = msgspec.json.decode(body)
    except msgspec.DecodeError:
        found = None
    if not has_shape(found, _SHAPES[what]):
        found = _error(
            f"{port} is no monitoring port of a nats-server: that answers /{what} otherwise (it said {status})"
        )
    return _Timed(found, (ended - began).total_seconds(), began + (ended - began) / 2)
