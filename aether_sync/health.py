"""Health: whether a part can do its work now, and why not; and a web application that answers probes with it.

A part is *ok* if it can do its work now. It is *alive* as long as waiting may help: a server that is away comes back,
and to restart the process would not bring it sooner. So a probe that takes traffic away asks for ``ok``, and a probe
that kills the process asks for ``alive``.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, Protocol, Self

from ._arguments import check_timeout
from ._runtime.deadline import Deadline
from ._values.shown import short
from .errors import InvalidOptionError

__all__ = ["HasHealth", "Health", "health_app"]


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

    Args:
        *parts: Buses, connections, stores, runners, or objects of yours with a ``health()``; or functions that return a
            :class:`Health`, such as ``partial(runner.health, hung_after=600)``.
        timeout: Seconds for the questions that parts put to the server, for all of them together. The default leaves
            time to answer where a probe is given a second, as Kubernetes does by default.

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
        deadline = Deadline(0.0 if is_about_life else seconds)
        found = Health.of("this process", parts=[ask(deadline) for ask in asked])
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


def _question(part: object) -> Callable[[Deadline], Health]:
    """Return how a part is asked within a deadline.

    Raises:
        InvalidOptionError: It cannot be asked.
    """
    try:
        health: Any = getattr(part, "health", part)
    except Exception:  # of an object that is something else
        health = None
    if not callable(health):
        raise InvalidOptionError(f"health_app() takes what has a health(), and {short(part)} has none")
    if "timeout" in signature(health).parameters:
        return lambda deadline: health(timeout=deadline.timeout_left())
    return lambda deadline: health()
