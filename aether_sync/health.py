"""Health: whether a part can do its work now, and why not; and a web application that answers probes with it.

A part is *ok* if it can do its work now. It is *alive* as long as waiting may help: a server that is away comes back,
and to restart the process would not bring it sooner. So a probe that takes traffic away asks for ``ok``, and a probe
that kills the process asks for ``alive``.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from contextvars import copy_context
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, NamedTuple, Protocol, Self

from ._arguments import check_timeout
from ._runtime.deadline import Deadline
from ._runtime.threads import NoThreadError, make_thread, start
from ._values.shown import short
from .errors import InvalidOptionError

__all__ = ["HasHealth", "Health", "health_app"]

_LEAST = 0.001  # seconds for a question whose thread began late: 0 would ask nothing, and say that all is well


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether something can do its work now; what ``health()`` returns. It is true if :attr:`ok` is.

    Attributes:
        about: What this is about, in words, without secrets.
        reasons: Why it is not ok, in words, one sentence each, with those of ``parts``; none if it is ok.
        alive: False if nothing but a restart of the process can help. While a server is away this stays true.
        numbers: Ages in seconds (``seconds_...``), numbers of events, and shares from 0 to 1. The ``health()`` that
            returned it lists them.
        parts: The health of what it needs, such as the connection of a store.
    """

    about: str
    reasons: tuple[str, ...] = ()
    alive: bool = True
    numbers: Mapping[str, float] = field(default_factory=dict)
    parts: "tuple[Health, ...]" = ()

    @classmethod
    def of(
        cls,
        about: str,
        reasons: Iterable[str] = (),
        *,
        alive: bool = True,
        numbers: Mapping[str, float] | None = None,
        parts: "Iterable[Health]" = (),
    ) -> Self:
        """Return the health of something that is no better than its parts.

        Args:
            about: What it is about.
            reasons: Why it is not ok, apart from its parts, whose reasons are added, each once.
            alive: Whether it is alive, apart from its parts.
            numbers: Its own.
            parts: The health of what it needs.
        """
        parts = tuple(parts)
        found = dict.fromkeys([*reasons, *(reason for part in parts for reason in part.reasons)])
        is_alive = alive and all(part.alive for part in parts)
        return cls(about=about, reasons=tuple(found), alive=is_alive, numbers=numbers or {}, parts=parts)

    @property
    def ok(self) -> bool:
        """Whether it can do its work now: there is no reason why not."""
        return not self.reasons

    def __bool__(self) -> bool:
        return self.ok

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, and ``ok``, as what ``json.dumps()`` takes."""
        return {
            "about": self.about,
            "ok": self.ok,
            "alive": self.alive,
            "reasons": list(self.reasons),
            "numbers": dict(self.numbers),
            "parts": [part.to_dict() for part in self.parts],
        }


class HasHealth(Protocol):
    """What :func:`health_app` asks: a bus, a connection, a store, a runner, or an object of yours."""

    @property
    def health(self) -> Callable[..., Health]:
        """A method that returns its health; an argument ``timeout``, if it has one, is given the seconds left."""


def health_app(
    *parts: HasHealth | Callable[..., Health], timeout: float = 0.5
) -> Callable[[dict[str, Any], Callable[..., object]], Iterable[bytes]]:
    """Return a WSGI application that answers probes with the health of some parts, as JSON.

    It answers 200 if all parts are ok, else 503. Where the path ends with ``/livez`` it answers 200 as long as all
    parts are alive; then nobody is asked over the network, so the answer does not depend on the server. What a part's
    own ``health()`` raises goes through to the web server, which answers 500.

    Parts whose ``health()`` has a ``timeout`` are asked at the same time, on a thread each, with a copy of the caller's
    context; so none takes the time of another. The others are asked meanwhile, one after the other, on the thread of
    the web server. All answers are waited for: a ``health()`` of yours has to keep its timeout.

    Args:
        *parts: Buses, connections, stores, runners, or objects of yours with a ``health()``; or functions that return a
            :class:`Health`, such as ``partial(runner.health, hung_after=600)``.
        timeout: Seconds for the question that each part puts to the server, all at the same time. What is not answered
            within them is a reason not to be ok. The default leaves time to answer where a probe is given a second, as
            Kubernetes does by default. 0 asks nothing; None waits for ever.

    Returns:
        The application, for a path of yours such as ``/healthz``, or for a port of its own.

    Raises:
        InvalidOptionError: There is no part, one has no ``health()``, or ``timeout`` is no number of seconds.
    """
    seconds = check_timeout("timeout", timeout)
    if not parts:
        raise InvalidOptionError("health_app() takes the parts to ask: a bus, a store, runners")
    asked = [_question(part) for part in parts]

    def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        method = environ.get("REQUEST_METHOD", "GET")
        if method not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", [("Allow", "GET, HEAD"), ("Content-Length", "0")])
            return []
        path = f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"
        is_about_life = path.rstrip("/").endswith("/livez")
        found = Health.of("this process", parts=_answers(asked, 0.0 if is_about_life else seconds))
        body = json.dumps(found.to_dict()).encode() + b"\n"
        is_well = found.alive if is_about_life else found.ok
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ]
        start_response("200 OK" if is_well else "503 Service Unavailable", headers)
        return [body] if method == "GET" else []

    return application


class _Question(NamedTuple):
    """How a part is asked, with a timeout; and whether it may take that time."""

    ask: Callable[[float | None], Health]
    may_wait: bool


def _answers(questions: list[_Question], timeout: float | None) -> list[Health]:
    """Ask all parts; those that may wait side by side, so that each has all of the time.

    Raises:
        BaseException: What a part has raised: of several, the one that comes first.
    """
    if timeout == 0 or len(questions) == 1:
        return [one.ask(timeout) for one in questions]
    deadline = Deadline(timeout)
    found: dict[int, Health] = {}
    errors: dict[int, BaseException] = {}

    def ask(number: int) -> None:
        left = deadline.timeout_left()
        try:
            found[number] = questions[number].ask(None if left is None else max(left, _LEAST))
        except BaseException as error:  # for the web server
            errors[number] = error

    threads, here = [], []
    for number, one in enumerate(questions):
        try:
            if one.may_wait:
                thread = make_thread(copy_context().run, ask, number, name=f"aether-health-{number}")
                start(thread)
                threads.append(thread)
                continue
        except NoThreadError:  # then it takes a little longer
            pass
        here.append(number)
    for number in here:
        ask(number)
    for thread in threads:
        thread.join()
    if errors:
        raise errors[min(errors)]
    return [found[number] for number in range(len(questions))]


def _question(part: object) -> _Question:
    """Return how a part is asked.

    Raises:
        InvalidOptionError: It cannot be asked.
    """
    try:
        health: Any = getattr(part, "health", part)
    except Exception:  # of an object that is something else
        health = None
    if not callable(health):
        raise InvalidOptionError(f"health_app() takes what has a health(), and {short(part)} has none")
    try:
        parameters = signature(health).parameters
    except ValueError as error:  # of something built in
        raise InvalidOptionError(f"health_app() cannot ask {short(part)}, which takes no known arguments") from error
    if "timeout" in parameters:
        return _Question(lambda timeout: health(timeout=timeout), True)
    return _Question(lambda _: health(), False)
