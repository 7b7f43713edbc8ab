"""``publish_after_response``: what a request publishes if it succeeds, when its response was sent."""

import asyncio
import gc
import io
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from asgiref.wsgi import WsgiToAsgi
from flask import Flask, Response, abort, copy_current_request_context, g, request, send_file, stream_with_context

from aether_sync import EncodingError, Event, InvalidEventError, InvalidNamespaceError, Subscription
from aether_sync.contrib.flask import Aether

from ...support.common import make_event, numbers
from .conftest import MakeApp


@pytest.fixture
def app(aether: Aether, make_app: MakeApp) -> Flask:
    """An application whose views publish the event 1, or what they are told to."""
    app = make_app(TESTING=False)

    def publish(number: int = 1) -> None:
        aether.publish_after_response("n", make_event(number))

    @app.route("/<int:status>")
    def answer(status: int) -> tuple[str, int]:
        publish()
        return "said", status

    @app.route("/abort/<int:status>")
    def fail(status: int) -> str:
        publish()
        abort(status)

    @app.route("/raise")
    def error() -> str:
        publish()
        raise ZeroDivisionError

    @app.route("/stream")
    def stream() -> Response:
        @stream_with_context
        def body() -> Iterator[str]:
            yield "one"
            publish(2)
            yield "two"

        publish()
        return Response(body())

    @app.route("/stream/raise")
    def broken_stream() -> Response:
        def body() -> Iterator[str]:
            yield "one"
            raise ZeroDivisionError

        publish()
        return Response(body())

    @app.route("/closeable")
    def closeable() -> Response:
        publish()
        return Response(Closeable(app.extensions.setdefault("closed", [])))

    @app.route("/file")
    def file() -> Response:
        publish()
        return send_file(io.BytesIO(b"a file"), mimetype="text/plain")

    @app.route("/many")
    def many() -> str:
        for number in range(3):
            publish(number)
        return "many"

    @app.route("/changed")
    def changed() -> str:
        g.changed = True
        publish()
        return "said"

    @app.after_request
    def change(response: Response) -> Response:
        return Response("another", status=503) if g.get("changed") else response

    @app.route("/late/stream/<int:status>")
    def late_stream(status: int) -> Response:
        @stream_with_context
        def body() -> Iterator[str]:
            yield "one"
            publish(7)
            yield "two"

        return Response(body(), status=status)

    @app.route("/late/teardown/<int:status>")
    def late_teardown(status: int) -> tuple[str, int]:
        return "said", status

    @app.teardown_request
    def tear_down(error: BaseException | None) -> None:
        if request.endpoint == "late_teardown":
            publish(8)

    @app.route("/late/thread/<int:status>")
    def late_thread(status: int) -> tuple[str, int]:
        app.extensions["works"] = works = [copy_current_request_context(partial(publish, 9)) for _ in range(2)]
        app.extensions["work"] = works[0]
        return "said", status

    return app


@pytest.fixture
def published(aether: Aether, app: Flask) -> Iterator[Subscription]:
    """What the application has published."""
    with app.app_context(), aether.bus.subscribe(">") as events:
        yield events


class Closeable:
    """The body of a response that has to be closed."""

    def __init__(self, closed: list[str]) -> None:
        self._closed = closed

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"one"])

    def close(self) -> None:
        self._closed.append("closed")


class Server:
    """Serves one request as a web server does, step by step."""

    def __init__(self, app: Flask, path: str, method: str = "GET") -> None:
        environ: dict[str, object] = {"PATH_INFO": path, "REQUEST_METHOD": method}
        setup_testing_defaults(environ)
        self.status = ""
        self.body = app(environ, self._start)  # type: ignore[arg-type]

    def _start(self, status: str, headers: object, exc_info: object = None) -> None:
        self.status = status

    def send(self) -> bytes:
        return b"".join(self.body)

    def close(self) -> None:
        close = getattr(self.body, "close", None)
        if close is not None:
            close()


def of(events: Subscription) -> list[int]:
    return numbers(events.get_batch(10, timeout=0))


@pytest.mark.parametrize(("path", "sent"), [("/200", b"said"), ("/302", b"said"), ("/file", b"a file")])
def test_it_comes_when_the_server_has_sent_all(app: Flask, published: Subscription, path: str, sent: bytes) -> None:
    server = Server(app, path)
    assert server.send() == sent
    assert of(published) == []
    server.close()
    assert of(published) == [1]
    server.close()
    assert of(published) == []  # once at most


@pytest.mark.parametrize("path", ["/400", "/404", "/500", "/503", "/abort/409", "/abort/500", "/raise", "/changed"])
def test_nothing_comes_of_a_request_that_has_failed(app: Flask, published: Subscription, path: str) -> None:
    server = Server(app, path)
    server.send()
    server.close()
    assert of(published) == []


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_response_without_a_body_counts(app: Flask, published: Subscription, method: str) -> None:
    server = Server(app, "/204", method)
    assert server.send() == b""
    server.close()
    assert of(published) == [1]


def test_an_exception_that_flask_lets_through_counts_as_failure(app: Flask, published: Subscription) -> None:
    app.config["PROPAGATE_EXCEPTIONS"] = True
    with pytest.raises(ZeroDivisionError):
        Server(app, "/raise")
    assert of(published) == []


def test_a_streamed_body_is_part_of_the_request(app: Flask, published: Subscription) -> None:
    server = Server(app, "/stream")
    assert server.send() == b"onetwo"
    assert of(published) == []
    server.close()
    assert of(published) == [1, 2]  # also what the body has published


def test_a_streamed_body_that_raises_is_a_failure(app: Flask, published: Subscription) -> None:
    server = Server(app, "/stream/raise")
    with pytest.raises(ZeroDivisionError):
        server.send()
    server.close()
    assert of(published) == []


def test_a_client_that_goes_away_changes_nothing(app: Flask, published: Subscription) -> None:
    server = Server(app, "/stream")
    assert next(iter(server.body)) == b"one"
    server.close()
    assert of(published) == [1]


def test_a_body_that_is_never_begun_is_closed(app: Flask, published: Subscription) -> None:
    server = Server(app, "/closeable", "HEAD")
    assert server.send() == b""
    server.close()
    assert app.extensions["closed"] == ["closed"]
    assert of(published) == [1]


def test_what_the_body_alone_publishes_comes(app: Flask, published: Subscription) -> None:
    server = Server(app, "/late/stream/200")
    assert server.send() == b"onetwo"
    assert of(published) == []
    server.close()
    assert of(published) == [7]


def test_what_the_teardown_publishes_comes(app: Flask, published: Subscription) -> None:
    server = Server(app, "/late/teardown/200")
    assert server.send() == b"said"
    assert of(published) == []
    server.close()
    assert of(published) == [8]


def test_what_a_thread_publishes_comes_also_after_the_response(app: Flask, published: Subscription) -> None:
    server = Server(app, "/late/thread/200")
    app.extensions["work"]()
    assert of(published) == []
    server.send()
    server.close()
    assert of(published) == [9]
    app.extensions["work"]()
    assert of(published) == [9]


@pytest.mark.parametrize("where", ["stream", "teardown", "thread"])
def test_nothing_comes_late_of_a_request_that_has_failed(app: Flask, published: Subscription, where: str) -> None:
    server = Server(app, f"/late/{where}/500")
    server.send()
    if where == "thread":
        app.extensions["work"]()
    server.close()
    if where == "thread":
        app.extensions["work"]()
    assert of(published) == []


def test_with_testing_what_comes_late_comes_at_once(app: Flask, published: Subscription) -> None:
    app.testing = True
    app.test_client().get("/late/teardown/200")
    app.test_client().get("/late/thread/200")
    assert of(published) == [8]
    app.extensions["work"]()
    assert of(published) == [9]


def test_a_file_without_events_is_sent_as_it_is(app: Flask) -> None:
    """Servers send what ``wsgi.file_wrapper`` has made faster, if there is nothing around it."""

    @app.route("/plain")
    def plain() -> Response:
        response = send_file(io.BytesIO(b"a file"), mimetype="text/plain")
        app.extensions["file"] = response.response
        return response

    server = Server(app, "/plain")
    assert server.body is app.extensions["file"]
    server.close()


@pytest.mark.parametrize(
    ("path", "outer_publishes", "inner_publishes"),
    [("/200", True, True), ("/500", False, False), ("/handled/500", True, False)],
)
def test_an_application_within_another_has_its_own_bus(
    aether: Aether,
    app: Flask,
    make_app: MakeApp,
    published: Subscription,
    path: str,
    *,
    outer_publishes: bool,
    inner_publishes: bool,
) -> None:
    outer = make_app(TESTING=False)

    @outer.route("/<int:status>")
    @outer.route("/handled/<int:status>", defaults={"handled": True})
    def answer(status: int, handled: bool = False) -> Response:
        aether.publish_after_response("n", make_event(1))
        request.environ["PATH_INFO"] = f"/{status}"
        response = Response.from_app(app, request.environ)
        aether.publish_after_response("n", make_event(2))
        return Response("handled") if handled else response

    with outer.app_context(), aether.bus.subscribe(">") as of_outer:
        server = Server(outer, path)
        server.send()
        server.close()
        assert of(of_outer) == ([1, 2] if outer_publishes else [])
    assert of(published) == ([1] if inner_publishes else [])


def test_several_come_in_order(app: Flask, published: Subscription) -> None:
    server = Server(app, "/many")
    server.send()
    server.close()
    assert of(published) == [0, 1, 2]


def test_the_client_of_tests_sees_them_at_once(app: Flask, published: Subscription) -> None:
    app.testing = True
    client = app.test_client()
    client.get("/200")
    assert of(published) == [1]
    with client.get("/stream") as response:
        assert response.text == "onetwo"
    assert of(published) == [1, 2]


@pytest.mark.parametrize(
    ("namespace", "event", "wrong"),
    [
        ("n.*", make_event(), InvalidNamespaceError),
        ("n", "event", InvalidEventError),
        ("n", Event(event_type="Happened", actor_id="a", data={"at": {1, 2}}), EncodingError),
    ],
)
def test_what_cannot_be_published_is_refused_in_the_view(
    aether: Aether, app: Flask, namespace: str, event: Event, wrong: type[Exception]
) -> None:
    with app.test_request_context(), pytest.raises(wrong):
        aether.publish_after_response(namespace, event)


def test_what_the_bus_does_not_accept_is_logged(aether: Aether, app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(app, "/200")
    aether.close(app)
    server.send()
    server.close()
    (record,) = caplog.records
    assert record.getMessage().endswith("was not published under 'n'")


@pytest.mark.concurrent
def test_each_event_of_threads_comes_once_however_they_meet_the_end(app: Flask, published: Subscription) -> None:
    def repeat(work: Callable[[], None]) -> None:
        start.wait()
        for _ in range(20):
            work()

    for _ in range(20):
        server = Server(app, "/late/thread/200")
        start = threading.Barrier(3)
        threads = [threading.Thread(target=repeat, args=(work,)) for work in app.extensions["works"]]
        for thread in threads:
            thread.start()
        start.wait()
        server.send()
        server.close()
        for thread in threads:
            thread.join()
        assert numbers(published.get_batch(100, timeout=0)) == [9] * 40


@pytest.mark.parametrize(
    ("path", "wanted"),
    [("/200", [1]), ("/file", [1]), ("/stream", [1, 2]), ("/late/teardown/200", [8]), ("/409", []), ("/raise", [])],
)
def test_an_adapter_that_closes_no_response(app: Flask, published: Subscription, path: str, wanted: list[int]) -> None:
    """As asgiref's WsgiToAsgi, by which Flask runs on servers for ASGI."""
    sent = asyncio.run(through_asgi(app, path))
    gc.collect()
    assert sent[0]["type"] == "http.response.start"
    assert of(published) == wanted


async def through_asgi(app: Flask, path: str) -> list[Any]:
    """Serve a request, and return what was sent."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [], "server": ("x", 80)}
    scope |= {"scheme": "http", "http_version": "1.1"}
    await WsgiToAsgi(app)(scope, receive, send)
    return sent


@pytest.mark.concurrent
def test_requests_on_many_threads_do_not_mix(aether: Aether, app: Flask) -> None:
    with app.app_context(), aether.bus.subscribe("n", maxsize=10_000) as events:

        def work() -> None:
            for number in range(50):
                server = Server(app, "/many" if number % 2 else "/abort/409")
                server.send()
                server.close()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(numbers(events.get_batch(1_000, timeout=0))) == sorted([0, 1, 2] * 100)
