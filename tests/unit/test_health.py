"""``Health`` as a value, and the WSGI application that answers probes with it."""

import json
import pickle
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest

from aether_sync import EventBus, Health, InMemoryEventStore, InvalidOptionError, health_app
from aether_sync._runtime.threads import NoThreadError

from ..support.common import PATIENCE

WHERE: ContextVar[str] = ContextVar("WHERE")
WELL = Health(about="a")
ILL = Health(about="b", reasons=("b is away",), numbers={"lag": 3})
DEAD = Health(about="c", reasons=("c is closed",), alive=False)


class Part:
    """Something of a user's."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self.timeouts: list[float | None] = []

    def health(self, timeout: float | None = None) -> Health:
        self.timeouts.append(timeout)
        return self._health


def answered(app: Callable[..., Any], path: str = "/healthz", **environ: str) -> tuple[str, Any]:
    """What an application answers: its status, and its body as JSON."""
    status: list[str] = []
    headers: dict[str, str] = {}

    def start_response(line: str, given: list[tuple[str, str]]) -> None:
        status.append(line)
        headers.update(given)

    body = b"".join(app({"REQUEST_METHOD": "GET", "PATH_INFO": path} | environ, start_response))
    if environ.get("REQUEST_METHOD", "GET") == "GET":
        assert headers["Content-Length"] == str(len(body))
    return status[0], json.loads(body or b"null")


def test_it_is_ok_without_a_reason() -> None:
    assert WELL.ok
    assert WELL
    assert not ILL.ok
    assert not ILL
    assert pickle.loads(pickle.dumps(ILL)) == ILL


def test_it_is_no_better_than_its_parts() -> None:
    found = Health.of("all", ["it is late"], parts=[WELL, ILL, DEAD, ILL])
    assert found.reasons == ("it is late", "b is away", "c is closed")
    assert not found.alive
    assert Health.of("all", parts=[WELL, ILL]).alive
    assert Health.of("all", parts=[WELL]).ok
    assert not Health.of("all", alive=False, parts=[WELL]).alive


def test_as_json() -> None:
    found = json.loads(json.dumps(Health.of("all", parts=[ILL]).to_dict()))
    own = {"about": "b", "ok": False, "alive": True, "reasons": ["b is away"], "numbers": {"lag": 3}, "parts": []}
    assert found == {
        "about": "all", "ok": False, "alive": True, "reasons": ["b is away"], "numbers": {}, "parts": [own],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "ready", "alive"),
    [((WELL,), "200 OK", "200 OK"), ((WELL, ILL), "503", "200 OK"), ((DEAD,), "503", "503")],
)
def test_an_answer(parts: tuple[Health, ...], ready: str, alive: str) -> None:
    app = health_app(*map(Part, parts))
    for path in ("/healthz", "", "/", "/readyz", "/livez/no", "/notlivez"):
        status, body = answered(app, path)
        assert status.startswith(ready)
        assert [part["about"] for part in body["parts"]] == [one.about for one in parts]
    for path, script in (("/livez", ""), ("/shop/livez/", ""), ("", "/livez"), ("/", "/shop/livez")):
        assert answered(app, path, SCRIPT_NAME=script)[0].startswith(alive)


def test_other_requests() -> None:
    app = health_app(Part(ILL))
    assert answered(app, REQUEST_METHOD="HEAD") == ("503 Service Unavailable", None)
    assert answered(app, REQUEST_METHOD="POST") == ("405 Method Not Allowed", None)


def test_each_has_all_of_the_time_and_about_life_nobody_is_asked() -> None:
    met = threading.Barrier(2)

    class Slow(Part):
        def health(self, timeout: float | None = None) -> Health:
            if timeout:
                met.wait(PATIENCE)  # which never ends for one that is asked alone
                assert WHERE.get() == "of the request"
            return super().health(timeout)

    parts = Slow(WELL), Slow(WELL), Part(ILL)
    app = health_app(*parts, lambda: WELL, timeout=PATIENCE)
    WHERE.set("of the request")
    _, body = answered(app)
    assert [part["about"] for part in body["parts"]] == ["a", "a", "b", "a"]
    for part in parts:
        (one,) = part.timeouts
        assert one is not None
        assert PATIENCE / 2 < one <= PATIENCE
    answered(app, "/livez")
    assert [part.timeouts[1:] for part in parts] == [[0.0]] * 3


def test_what_is_not_asked_for_lack_of_time_is_not_taken_for_well() -> None:
    """0 would ask nothing; so a part that is asked late is given a moment."""

    def late() -> Health:
        time.sleep(0.05)
        return WELL

    part = Part(WELL)
    with patch("aether_sync.health.start", side_effect=NoThreadError("none", is_passing=True)):
        answered(health_app(late, part, timeout=0.02))
    assert part.timeouts == [0.001]


def test_parts_for_which_there_is_no_thread_are_asked_all_the_same() -> None:
    with patch("aether_sync.health.start", side_effect=NoThreadError("none", is_passing=True)):
        status, body = answered(health_app(Part(WELL), Part(ILL)))
    assert (status[:3], [part["about"] for part in body["parts"]]) == ("503", ["a", "b"])


def test_parts_of_many_kinds() -> None:
    with EventBus() as bus, InMemoryEventStore() as store:
        app = health_app(bus, store, partial(Part(WELL).health, timeout=1), lambda: WELL, WELL_PART)
        status, body = answered(app)
        assert status == "200 OK"
        assert [part["about"] for part in body["parts"]][1:] == ["the store in memory", "a", "a", "a"]


class Simple:
    """A part whose health() takes nothing."""

    def health(self) -> Health:
        return WELL


WELL_PART = Simple()


def test_what_a_part_raises_goes_to_the_web_server() -> None:
    def fail() -> Health:
        raise ZeroDivisionError

    def fail_in_time(timeout: float | None) -> Health:
        raise ZeroDivisionError

    for parts in ((fail,), (fail_in_time,), (Part(WELL), fail_in_time, fail), (fail, Part(WELL))):
        with pytest.raises(ZeroDivisionError):
            answered(health_app(*parts))


def test_bad_input() -> None:
    with pytest.raises(InvalidOptionError, match=r"^health_app\(\) takes the parts to ask"):
        health_app()
    with pytest.raises(InvalidOptionError, match=r"^health_app\(\) takes what has a health\(\), and 3 has none"):
        health_app(3)  # type: ignore[arg-type]
    with pytest.raises(InvalidOptionError, match=r"^health_app\(\) cannot ask .*dict"):
        health_app(dict)
    with pytest.raises(InvalidOptionError, match=r"^timeout must be seconds"):
        health_app(WELL_PART, timeout=-1)


def test_of_what_needs_no_server() -> None:
    bus, store = EventBus(), InMemoryEventStore()
    with bus.subscribe("n", maxsize=4):
        bus.publish_many("n", [])
        found = bus.health()
        assert (found.ok, found.alive, found.parts) == (True, True, ())
        assert found.numbers == {"subscriptions": 1, "pending": 0, "fullest": 0.0}
    assert store.health().numbers == {"events": 0, "last_sequence": 0}
    for one in (bus, store):
        one.close()  # type: ignore[attr-defined]
        found = one.health()  # type: ignore[attr-defined]
        assert (found.ok, found.alive) == (False, False)
        assert found.reasons == (f"{found.about} is closed",)
    with pytest.raises(InvalidOptionError):
        store.health(timeout=-1)
