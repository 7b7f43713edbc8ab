"""What views return: server-sent events, and the answers to probes."""

import json
from itertools import islice

import pytest
from flask import Flask, Response, request

from aether_sync import ANY_VERSION, Health, InvalidOptionError
from aether_sync.contrib.flask import Aether

from ...support.common import make_event
from .conftest import MakeApp


@pytest.fixture
def app(aether: Aether, make_app: MakeApp) -> Flask:
    """An application with a live page, whose store has three events."""
    app = make_app()
    app.register_blueprint(aether.health_blueprint())

    @app.get("/live")
    def live() -> Response:
        return aether.sse(actors="thing-*", heartbeat=0.05, after=request.args.get("after"))

    @app.get("/live/number")
    def live_number() -> Response:
        return aether.sse(heartbeat=0.05, after=request.args.get("after", type=int))

    @app.get("/bus")
    def bus() -> Response:
        return aether.sse(aether.bus.subscribe("n"), encode=lambda event: event.actor_id, heartbeat=0.05)

    with app.app_context():
        for number in range(3):
            aether.store.append(f"thing-{number}", make_event(number), expected_version=ANY_VERSION)
    return app


def test_a_browser_resumes_where_it_was(aether: Aether, app: Flask) -> None:
    with app.test_client() as client, app.app_context():
        aether.store.append("thing-9", make_event(9, event_type="Last"), expected_version=ANY_VERSION)
        response = client.get("/live", headers={"Last-Event-ID": "1"})
        assert response.status_code == 200
        assert response.content_type == "text/event-stream"
        found: list[dict[str, object]] = []
        with response:
            for part in islice(response.iter_encoded(), 100):  # heartbeats come for ever
                found += [json.loads(line[6:]) for line in part.decode().splitlines() if line.startswith("data: ")]
                if found and found[-1]["eventType"] == "Last":
                    break
        assert [one["actorId"] for one in found] == ["thing-1", "thing-2", "thing-9"]


def test_a_subscription_can_be_the_source(aether: Aether, app: Flask) -> None:
    with app.test_client() as client, app.app_context(), client.get("/bus") as response:
        parts = response.iter_encoded()
        next(parts)
        aether.bus.publish("n", make_event(7))
        assert any("data: thing-7" in part.decode() for part in islice(parts, 100))
    with app.app_context():
        assert aether.bus.metrics().active_subscriptions == 0  # it ended with the response


@pytest.mark.parametrize(
    ("query", "headers", "first"),
    [("?after=2", {}, "2"), ("?after=0", {"Last-Event-ID": "2"}, "2"), ("?after=", {"Last-Event-ID": ""}, "3")],
)
def test_a_page_says_what_it_has_when_it_connects_first(
    app: Flask, query: str, headers: dict[str, str], first: str
) -> None:
    with app.test_client().get(f"/live{query}", headers=headers) as answer:
        assert f"id: {first}\n" in next(iter(answer.iter_encoded())).decode()


def test_what_a_page_has_may_be_a_number(app: Flask) -> None:
    with app.test_client().get("/live/number?after=2") as answer:
        assert "id: 2\n" in next(iter(answer.iter_encoded())).decode()
    with app.test_client().get("/live/number") as answer:
        assert "id: 3\n" in next(iter(answer.iter_encoded())).decode()


@pytest.mark.parametrize(
    ("path", "after"),
    [("/live", "99"), ("/live", "-1"), ("/live", "x"), ("/live/number", "99"), ("/live/number", "-1")],
)
def test_what_a_page_says_first_may_make_no_sense(app: Flask, path: str, after: str) -> None:
    answer = app.test_client().get(f"{path}?after={after}")
    assert answer.status_code == 400
    assert "after " in answer.text
    assert "Last-Event-ID" not in answer.text  # the client has sent none


@pytest.mark.parametrize("after", [True, 1.5, b"1"])
def test_what_a_page_has_is_a_sequence(aether: Aether, app: Flask, after: object) -> None:
    with app.test_request_context(), pytest.raises(InvalidOptionError, match="after must be the sequence of an event"):
        aether.sse(after=after)  # type: ignore[arg-type]


def test_a_subscription_has_no_past(aether: Aether, app: Flask) -> None:
    with app.test_request_context(), aether.bus.subscribe("n") as events:  # noqa: SIM117
        with pytest.raises(InvalidOptionError, match="has no past"):
            aether.sse(events, after="3")


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "99", "9" * 30])
def test_an_id_that_makes_no_sense_is_a_bad_request(app: Flask, last: str) -> None:
    answer = app.test_client().get("/live", headers={"Last-Event-ID": last})
    assert answer.status_code == 400
    assert "Last-Event-ID" in answer.text or "ends at sequence" in answer.text


def test_probes_are_answered(aether: Aether, app: Flask) -> None:
    client = app.test_client()
    ready, alive = client.get("/healthz"), client.get("/livez")
    assert (ready.status_code, alive.status_code) == (200, 200)
    assert ready.json is not None
    assert ready.json["ok"]
    assert client.post("/livez").status_code == 405
    assert client.head("/healthz").status_code == 200
    aether.close(app)
    closed = client.get("/healthz")
    assert closed.status_code == 503
    assert closed.json is not None
    assert any("closed" in reason for reason in closed.json["reasons"])


def test_a_server_that_is_away_is_not_ready_and_yet_alive(aether: Aether, make_app: MakeApp) -> None:
    app = make_app(AETHER_URL="nats://127.0.0.1:1")
    app.register_blueprint(aether.health_blueprint(timeout=0.05), url_prefix="/internal")
    client = app.test_client()
    assert client.get("/internal/healthz").status_code == 503
    assert client.get("/internal/livez").status_code == 200


def test_one_blueprint_asks_each_application_of_its_own(aether: Aether, make_app: MakeApp) -> None:
    blueprint = aether.health_blueprint(lambda: Health(about="the stock", reasons=("it is empty",)))
    apps = [make_app(), make_app(AETHER_STREAM=None)]
    for app in apps:
        app.register_blueprint(blueprint)
    answers = [app.test_client().get("/healthz").json for app in apps]
    assert [answer["reasons"] for answer in answers if answer] == [["it is empty"]] * 2
    assert [len(answer["parts"][0]["parts"]) for answer in answers if answer] == [2, 1]


def test_what_has_no_health_is_refused(aether: Aether) -> None:
    with pytest.raises(InvalidOptionError, match=r"has a health\(\)"):
        aether.health_blueprint("redis")  # type: ignore[arg-type]
