"""``ReadYourWrites``: WSGI middleware, by which a client reads what it has written before, also from projections.

What a request stores is noticed where the store stores it (``stores/_noticing.py``). The response then carries a token:
the sequence of the last event, and a code by which it cannot be forged (HMAC-SHA-256, RFC 2104). The next requests of
that client bring the token back, and reads wait until the projections have reached that sequence.

An application may be wrapped several times, for several streams. Therefore the name of the cookie, and each token,
has a mark of the stream: each finds what is its own, and leaves the others alone.

The headers of a response are held back until the application gives the first part of its body, or has given all of it:
until then what it stores is carried by this response (PEP 3333 lets it store at any time before).
"""

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from inspect import isgeneratorfunction
from types import FunctionType
from typing import Any, Final, TypeAlias

from .._arguments import as_iterator, check_callback, check_timeout, is_of
from .._runtime.deadline import Deadline
from .._values.counting import Count
from .._values.shown import short
from ..errors import AetherError, DeadlineExceededError, InvalidOptionError
from ..events import MAX_VERSION
from ..stores._noticing import Written, noticing
from ..stores._store_base import place_of
from ..stores.projections.projection import Projection

__all__ = ["ReadYourWrites", "ReadYourWritesStats"]

_COOKIE: Final = "aether_sync_written"
_HEADER: Final = "Aether-Sync-Written"
_STALE: Final = "Aether-Sync-Stale"
_KEPT = 300  # seconds that a browser keeps the cookie: no projection that works is so far behind
_LEAST_SECRET = 16  # bytes
_SOON = 0.05  # seconds, after which it is asked whether the store has the event at all
_TOKENS = 4  # that are looked at, of one request: a browser sends several cookies of one name for several paths
_TEXTS = 16  # of one header that are looked at: one of each stream

_TOKEN = re.compile(r"([1-9][0-9]{0,18})\.([0-9a-f]{8})\.([A-Za-z0-9_-]{43})", re.ASCII)
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)  # a token of RFC 9110, section 5.6.2

_Environ: TypeAlias = dict[str, Any]
_Headers: TypeAlias = list[tuple[str, str]]
_Application: TypeAlias = Callable[[_Environ, Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadYourWritesStats:
    """What a :class:`ReadYourWrites` has done so far, in this process.

    Attributes:
        written: Requests whose response carries what they have stored, or had stored before, by the same command.
        too_late: Requests that have stored something when their headers were sent already: the client is not told.
        fresh: Reads that had something to wait for, and were answered with it.
        stale: Reads that were answered without it, as a projection was too slow, had stopped, or was not there.
        refused: Tokens that were forged or damaged. Those of other streams are not looked at.
    """

    written: int
    too_late: int
    fresh: int
    stale: int
    refused: int


class ReadYourWrites:
    """WSGI middleware: a client's reads wait, within bounds, until projections have what the client has written.

    A write is whatever the request stores in the store of the projections, on the thread of the request or in a copy of
    its context. A command that a :class:`Repository` finds to be repeated counts as well, with the events of the first
    time. The response to a write sets a cookie, and has the same text in the header ``Aether-Sync-Written``: a client
    without cookies sends that header with its next requests.

    An application that reads projections of several stores is wrapped once for each. The cookies of streams of
    different names have different names.

    A read that is answered without what the client has written has the header ``Aether-Sync-Stale``, with the reason:
    ``timeout``, ``stopped`` (the projection has stopped, or cannot be asked), or ``unknown`` (the store has no such
    event, as its stream was made anew; the cookie is deleted).

    Any number of threads may serve requests at once.

    Args:
        app: The WSGI application.
        projections: Those that reads wait for, all of one store. They need not be started in this process.
        secret: Signs the token: at least 16 bytes, which all processes of the application share. Or several of them, to
            exchange one: the first signs, and all are accepted. A ``str`` is encoded as UTF-8.
        timeout: Seconds that a read waits at most, for all projections together. It takes a thread of the web server.
        methods: The methods that read. Others do not wait.

    Raises:
        InvalidOptionError: An argument is wrong, or the projections are of several streams.
    """

    def __init__(
        self,
        app: _Application,
        *,
        projections: Iterable[Projection],
        secret: str | bytes | Iterable[str | bytes],
        timeout: float = 2.0,
        methods: Iterable[str] = ("GET", "HEAD"),
    ) -> None:
        if not (is_of(app, FunctionType) and isgeneratorfunction(app)):
            check_callback("app", app, "the environ", "start_response")
        self._app = app
        self._projections = _checked_projections(projections)
        self._stream = self._projections[0].stream
        self._mark = hashlib.sha256(self._stream.encode()).hexdigest()[:8]
        self._cookie = f"{_COOKIE}_{self._mark}"
        self._place = place_of(self._projections[0].store)
        self._keys = _checked_secrets(secret)
        seconds = check_timeout("timeout", timeout)
        if seconds is None:
            raise InvalidOptionError("timeout must be a number of seconds: a read must not wait for ever")
        self._timeout = seconds
        self._methods = _checked_methods(methods)
        self._written, self._too_late, self._fresh, self._stale, self._refused = (Count() for _ in range(5))

    def __call__(self, environ: _Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve a request, as PEP 3333 has it."""
        brought = self._brought(environ)
        reason = self._wait_for(brought) if brought and environ.get("REQUEST_METHOD") in self._methods else ""
        response = _Response(self, environ, start_response, 0 if reason == "unknown" else brought, reason)
        return response.serve(self._app)

    def stats(self) -> ReadYourWritesStats:
        """Return what this has done so far."""
        return ReadYourWritesStats(
            written=self._written.count,
            too_late=self._too_late.count,
            fresh=self._fresh.count,
            stale=self._stale.count,
            refused=self._refused.count,
        )

    # -- reads

    def _wait_for(self, sequence: int) -> str:
        """Wait until the projections are so far; return "", or why they are not."""
        deadline = Deadline(self._timeout)
        try:
            if not self._reached(sequence, Deadline(min(_SOON, self._timeout))):
                # Not before: a server that has just become the leader may not know the last event for a moment.
                if self._projections[0].store.last_sequence(timeout=deadline.timeout_left()) < sequence:
                    self._stale.one()
                    return "unknown"
                if not self._reached(sequence, deadline):
                    self._stale.one()
                    return "timeout"
        except AetherError as error:
            self._stale.one()
            return "timeout" if is_of(error, DeadlineExceededError) else "stopped"
        self._fresh.one()
        return ""

    def _reached(self, sequence: int, deadline: Deadline) -> bool:
        try:
            for projection in self._projections:
                projection.wait_for(sequence, deadline.timeout_left())
        except DeadlineExceededError:
            return False
        return True

    # -- tokens

    def _brought(self, environ: _Environ) -> int:
        """Return the highest sequence that a request brings, in a cookie or a header; 0 if it brings none."""
        texts = environ.get("HTTP_AETHER_SYNC_WRITTEN", "").split(",", _TEXTS)[:_TEXTS]
        found = [*map(str.strip, texts), *_cookies(environ.get("HTTP_COOKIE", ""), self._cookie)]
        return max((self._opened(token) for token in found if token), default=0)

    def _opened(self, token: str) -> int:
        """Return the sequence of a token; 0 if it is none of ours."""
        match = _TOKEN.fullmatch(token)
        if match is not None and match[2] != self._mark:
            return 0
        if match is not None and int(match[1]) <= MAX_VERSION:
            sequence, given = int(match[1]), match[3].encode("ascii")
            if any(hmac.compare_digest(given, self._code(key, sequence)) for key in self._keys):
                return sequence
        self._refused.one()
        return 0

    def _token(self, sequence: int) -> str:
        """Return the token of a sequence."""
        return f"{sequence}.{self._mark}.{self._code(self._keys[0], sequence).decode('ascii')}"

    def _code(self, key: bytes, sequence: int) -> bytes:
        text = f"aether-sync written {sequence} {self._stream}".encode()
        return urlsafe_b64encode(hmac.digest(key, text, "sha256")).rstrip(b"=")


class _Response:
    """One response. Its headers are held back until the first part of its body is there, or its end.

    Args:
        owner: The middleware.
        environ: The request.
        start_response: That of the server.
        brought: The sequence that the request has brought; 0 if there is none that is to be kept.
        reason: Why it is stale; "" if it is not.
    """

    def __init__(
        self, owner: ReadYourWrites, environ: _Environ, start_response: Callable[..., Any], brought: int, reason: str
    ) -> None:
        self._owner = owner
        self._environ = environ
        self._start = start_response
        self._brought = brought
        self._reason = reason
        self._noticed = Written(owner._place)
        self._told = 0  # the sequence that the headers carry
        self._held: tuple[str, _Headers] | None = None  # what the application has begun with
        self._is_begun = False  # whether the headers are handed to the server
        self._write: Callable[[bytes], object] | None = None  # of the server, from then on

    def serve(self, app: _Application) -> Iterable[bytes]:
        """Call the application; return the body."""
        with noticing(self._noticed):
            body = app(self._environ, self._start_response)
        wrapper = self._environ.get("wsgi.file_wrapper")
        is_whole = type(body) in (list, tuple) or (isinstance(wrapper, type) and isinstance(body, wrapper))
        if is_whole and self._held is not None:
            # Nothing of the application runs any more, and a server does more for these: it knows the length of a body
            # of one part, and has the system send a file.
            self._hand_over()
            self._ended()
            return body
        return _Body(self, body)

    def _start_response(self, status: str, headers: _Headers, exc_info: Any = None) -> Callable[[bytes], object]:
        try:
            if self._is_begun:  # the server raises it if the headers are sent, and else takes the new ones
                self._write = self._start(status, self._completed(headers), exc_info)
            elif self._held is not None and exc_info is None:
                raise AssertionError("start_response() was called twice, and not with an error: see PEP 3333")
            else:
                self._held = status, headers
        finally:
            exc_info = None  # or there would be a circle of references
        return self._write_now

    def _write_now(self, data: bytes) -> None:
        """Write a part of the body, by what ``start_response()`` returns."""
        self._hand_over()
        assert self._write is not None
        self._write(data)

    def _hand_over(self) -> None:
        """Hand the headers to the server, if the application has begun, and that was not done."""
        if not self._is_begun and self._held is not None:
            self._is_begun = True
            status, headers = self._held
            self._write = self._start(status, self._completed(headers))

    def _completed(self, headers: _Headers) -> _Headers:
        """Return the headers, with those of ours."""
        added: _Headers = []
        noticed = self._noticed.sequence
        if noticed:
            if not self._told:
                self._owner._written.one()
            self._told = noticed
            token = self._owner._token(max(noticed, self._brought))
            added = [("Set-Cookie", self._cookie(token, _KEPT)), (_HEADER, token)]
        elif self._reason == "unknown":
            added = [("Set-Cookie", self._cookie("", 0))]
        if self._reason:
            added.append((_STALE, self._reason))
        return [*headers, *added] if added else headers

    def _cookie(self, token: str, age: int) -> str:
        secure = "; Secure" if self._environ.get("wsgi.url_scheme") == "https" else ""
        return f"{self._owner._cookie}={token}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax{secure}"

    def _ended(self) -> None:
        if self._noticed.sequence > self._told:
            self._owner._too_late.one()


class _Body:
    """The body, of which each part is made where it is noticed what is stored."""

    def __init__(self, response: _Response, body: Iterable[bytes]) -> None:
        self._response = response
        self._body = body
        self._parts: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        response = self._response
        try:
            with noticing(response._noticed):
                if self._parts is None:
                    self._parts = iter(self._body)
                part = next(self._parts)
        except StopIteration:
            response._hand_over()
            raise
        response._hand_over()
        return part

    def close(self) -> None:
        """Close the body, as a server does at the end, whatever has happened."""
        close = getattr(self._body, "close", None)
        try:
            if close is not None:
                with noticing(self._response._noticed):
                    close()
        finally:
            self._response._ended()


def _cookies(header: object, wanted: str) -> list[str]:
    """Return the values of a cookie, which a request has (RFC 6265, section 4.2.1); not all, if they are many."""
    if not isinstance(header, str) or wanted not in header:
        return []
    pairs = (part.partition("=") for part in header.split(";"))
    return [value.strip().strip('"') for name, _, value in pairs if name.strip() == wanted][:_TOKENS]


def _checked_projections(given: Any) -> tuple[Projection, ...]:
    iterator = None if is_of(given, Projection) else as_iterator(given)
    if iterator is None:
        raise InvalidOptionError(f"projections must be a list of what store.project() has returned, not {short(given)}")
    projections = tuple(iterator)
    for one in projections:
        if not is_of(one, Projection):
            raise InvalidOptionError(f"projections must be what store.project() has returned, not {short(one)}")
    streams = {one.stream for one in projections}
    if len({place_of(one.store) for one in projections}) != 1:
        what = "one or more"
        if streams:
            several = ", ".join(sorted(map(short, streams))) if len(streams) > 1 else "several stores in memory"
            what = f"of one stream, not of {several}"
        raise InvalidOptionError(f"the projections that reads wait for must be {what}: sequences belong to a stream")
    return projections


def _checked_secrets(given: Any) -> tuple[bytes, ...]:
    """Return the keys; an error does not show what was given."""
    is_one = is_of(given, str) or is_of(given, bytes)
    iterator = iter((given,)) if is_one else as_iterator(given)
    secrets = () if iterator is None else tuple(iterator)
    keys = [_key(one) for one in secrets]
    if not keys or any(len(one) < _LEAST_SECRET for one in keys):
        raise InvalidOptionError(
            f"secret must be a str or bytes of at least {_LEAST_SECRET} bytes, or a list of such: "
            "python -c 'import secrets; print(secrets.token_urlsafe())' makes one"
        )
    return tuple(keys)


def _key(secret: object) -> bytes:
    """Return a secret as bytes; none if it is no secret."""
    if is_of(secret, bytes):
        return bytes.__getitem__(secret, slice(None))
    try:
        return str.encode(secret) if is_of(secret, str) else b""
    except UnicodeEncodeError:  # half of a character
        return b""


def _checked_methods(given: Any) -> frozenset[str]:
    iterator = None if is_of(given, str) else as_iterator(given)
    methods = None if iterator is None else tuple(iterator)
    if methods is None or not all(is_of(one, str) and _METHOD.fullmatch(one) for one in methods):
        raise InvalidOptionError(f"methods must be names of HTTP methods, such as ['GET', 'HEAD'], not {short(given)}")
    return frozenset(methods)
