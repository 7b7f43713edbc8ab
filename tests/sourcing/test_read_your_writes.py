"""``ReadYourWrites``: tokens, waiting, and what PEP 3333 asks of middleware."""

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aether_sync import (
    ANY_VERSION,
    Event,
    InMemoryEventStore,
    InvalidOptionError,
    JetStreamEventStore,
    Projection,
    ReadYourWrites,
    Repository,
    SQLite,
    StoredEvent,
)
from aether_sync.sourcing.read_your_writes import _cookies

from ..support.common import PATIENCE

SECRET = "a secret of the tests"
COOKIE = f"aether_sync_written_{sha256(b'shop').hexdigest()[:8]}"


class Answer:
    """What a server has got of an application."""

    def __init__(self) -> None:
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self.body = b""
        self.parts = 0
        self.is_list = False

    def header(self, name: str) -> list[str]:
        return [text for key, text in self.headers if key == name]

    @property
    def token(self) -> str:
        (token,) = self.header("Aether-Sync-Written")
        return token


def ask(app: Any, method: str = "GET", *, checked: bool = True, **environ: Any) -> Answer:
    """Send a request, as a server does, which ``wsgiref.validate`` looks at."""
    answer = Answer()
    setup_testing_defaults(environ)
    environ |= {"REQUEST_METHOD": method, "QUERY_STRING": "", "SCRIPT_NAME": ""}

    def write(data: bytes) -> None:
        assert answer.status
        answer.body += data

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[..., None]:
        if exc_info and answer.body:
            raise exc_info[1]
        assert exc_info or not answer.status
        answer.status, answer.headers = status, headers
        return write

    body = (validator(app) if checked else app)(environ, start_response)
    answer.is_list = type(body) is list
    try:
        for part in body:
            assert answer.status
            answer.parts += 1
            answer.body += part
    finally:
        if hasattr(body, "close"):
            body.close()
    return answer


@pytest.fixture
def store() -> Iterator[InMemoryEventStore]:
    with InMemoryEventStore(namespace="shop") as store:
        yield store


@pytest.fixture
def projection(store: InMemoryEventStore, tmp_path: Path) -> Projection:
    """It is not started, and ends with its store."""
    return store.project("p", lambda db, stored: None, into=SQLite(tmp_path / "read.db"))


@pytest.fixture
def put(store: InMemoryEventStore) -> Callable[[], StoredEvent]:
    def put() -> StoredEvent:
        return store.append("a", Event(event_type="Paid", actor_id="a"), expected_version=ANY_VERSION)[0]

    return put


Put = Callable[[], StoredEvent]
PLAIN = [("Content-Type", "text/plain")]


def reading(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", list(PLAIN))
    return [b"read"]


def wrapped(app: Any, projection: Projection, **options: Any) -> ReadYourWrites:
    return ReadYourWrites(app, **{"projections": [projection], "secret": SECRET, "timeout": 0.2, **options})


class TestWrites:
    """How a write is noticed, in all the ways in which an application may answer."""

    def test_before_and_after_start_response(self, put: Put, projection: Projection) -> None:
        def app(environ: Any, start_response: Any) -> Iterable[bytes]:
            if environ["PATH_INFO"] == "/before":
                put()
            start_response("200 OK", list(PLAIN))
            if environ["PATH_INFO"] == "/after":
                put()
            return [b"done"]

        served = wrapped(app, projection)
        for number, path in enumerate(("/before", "/after"), 1):
            answer = ask(served, "POST", PATH_INFO=path)
            assert answer.token.startswith(f"{number}.")
            assert answer.header("Set-Cookie") == [
                f"{COOKIE}={answer.token}; Path=/; Max-Age=300; HttpOnly; SameSite=Lax"
            ]
            assert answer.body == b"done"
        assert ask(served, PATH_INFO="/none").headers == PLAIN
        assert ask(served, PATH_INFO="/after", checked=False).is_list  # so that the server knows the length
        assert (
            ask(served, PATH_INFO="/after", **{"wsgi.url_scheme": "https"}).header("Set-Cookie")[0].endswith("Secure")
        )
        assert served.stats().written == 4
        assert served.stats().too_late == 0

    def test_while_the_body_is_made(self, put: Put, projection: Projection) -> None:
        def app(environ: Any, start_response: Any) -> Iterator[bytes]:
            put()
            start_response("200 OK", list(PLAIN))
            put()
            yield b"one"
            put()
            yield b"two"

        served = wrapped(app, projection)
        answer = ask(served)
        assert answer.token.startswith("2.")
        assert (answer.body, answer.parts) == (b"onetwo", 2)
        assert served.stats().too_late == 1  # the third, when the headers were sent

    def test_by_write(self, put: Put, projection: Projection) -> None:
        def app(environ: Any, start_response: Any) -> Iterable[bytes]:
            write = start_response("200 OK", list(PLAIN))
            put()
            write(b"one")
            put()
            return [b"two"]

        served = wrapped(app, projection)
        answer = ask(served)
        assert answer.token.startswith("1.")
        assert answer.body == b"onetwo"
        assert served.stats().too_late == 1

    def test_an_empty_body(self, put: Put, projection: Projection) -> None:
        def app(environ: Any, start_response: Any) -> Iterator[bytes]:
            start_response("204 No Content", [])
            put()
            yield from ()

        assert ask(wrapped(app, projection), "POST").token.startswith("1.")

    def test_an_error_before_the_body_replaces_the_headers(self, put: Put, projection: Projection) -> None:
        def app(environ: Any, start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", list(PLAIN))
            try:
                put()
                raise LookupError
            except LookupError:
                start_response("500 Oops", list(PLAIN), sys.exc_info())
            return [b"oops"]

        answer = ask(wrapped(app, projection))
        assert (answer.status, answer.body) == ("500 Oops", b"oops")
        assert answer.token.startswith("1.")

    def test_an_error_within_the_body_goes_to_the_server(self, projection: Projection) -> None:
        closed = []

        class Body:
            def __iter__(self) -> Iterator[bytes]:
                self.start("200 OK", list(PLAIN))
                yield b"one"
                try:
                    raise LookupError("in the middle")
                except LookupError:
                    self.start("500 Oops", list(PLAIN), sys.exc_info())

            def close(self) -> None:
                closed.append(True)

        def app(environ: Any, start_response: Any) -> Iterable[bytes]:
            body = Body()
            body.start = start_response  # type: ignore[attr-defined]
            return body

        with pytest.raises(LookupError, match="in the middle"):
            ask(wrapped(app, projection))
        assert closed == [True]

    def test_headers_that_are_given_twice_are_refused(self, projection: Projection) -> None:
        def app(environ: Any, start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", list(PLAIN))
            start_response("201 Created", list(PLAIN))
            return []

        with pytest.raises(AssertionError, match="twice"):
            ask(wrapped(app, projection), checked=False)

    def test_a_file_stays_a_file(self, put: Put, projection: Projection) -> None:
        def app(environ: Any, start_response: Any) -> Iterable[bytes]:
            put()
            start_response("200 OK", list(PLAIN))
            return environ["wsgi.file_wrapper"](io.BytesIO(b"contents"))

        environ: dict[str, Any] = {"wsgi.file_wrapper": FileWrapper}
        setup_testing_defaults(environ)
        started: list[Any] = []
        body = wrapped(app, projection)(environ, lambda *given: started.append(given))
        assert type(body) is FileWrapper
        assert started[0][1][-1][0] == "Aether-Sync-Written"

    def test_other_streams_and_other_requests_do_not_count(self, put: Put, projection: Projection) -> None:
        def app(environ: Any, start_response: Any) -> Iterator[bytes]:
            with InMemoryEventStore(namespace="elsewhere") as other:
                other.append("a", Event(event_type="Paid", actor_id="a"), expected_version=ANY_VERSION)
            start_response("200 OK", list(PLAIN))
            yield b"one"
            yield b"two"

        environ: dict[str, Any] = {}
        setup_testing_defaults(environ)
        started: list[Any] = []
        body = iter(wrapped(app, projection)(environ, lambda *given: started.append(given)))
        put()
        assert next(body) == b"one"
        put()  # by the server's thread, between two parts
        assert next(body) == b"two"
        assert started == [("200 OK", PLAIN)]
        body.close()  # type: ignore[attr-defined]

    def test_a_repeated_command_is_a_write_too(
        self, store: InMemoryEventStore, put: Put, projection: Projection
    ) -> None:
        numbers = Repository(store, initial=int, evolve=lambda state, event: state + 1)

        def paid(state: object) -> Event:
            return Event(event_type="Paid", actor_id="b")

        def together(states: object) -> dict[str, Event]:
            return {"b": paid(states)}

        def app(environ: Any, start_response: Any) -> Iterable[bytes]:
            decided: Any
            if environ["PATH_INFO"] == "/one":
                decided = numbers.decide("b", paid, command_id="one")
            else:
                decided = numbers.decide_together(["a", "b"], together, command_id="two")
            start_response("200 OK", list(PLAIN))
            return [str(decided.is_repetition).encode()]

        served = wrapped(app, projection)
        for path, sequence in (("/one", 1), ("/two", 3)):
            for is_repetition in (b"False", b"True"):
                answer = ask(served, "POST", PATH_INFO=path)
                assert answer.token.startswith(f"{sequence}.")
                assert answer.body == is_repetition
            put()

    def test_another_store_in_memory_is_another_one(self, tmp_path: Path) -> None:
        def app(environ: Any, start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", list(PLAIN))
            other.append("a", Event(event_type="Paid", actor_id="a"), expected_version=ANY_VERSION)
            return [b"done"]

        with InMemoryEventStore() as store, InMemoryEventStore() as other:
            one = store.project("p", print, into=SQLite(tmp_path / "r.db"))
            assert ask(wrapped(app, one), "POST").headers == PLAIN
            assert ask(wrapped(app, other.project("p", print, into=SQLite(tmp_path / "o.db"))), "POST").token

    def test_another_store_of_the_same_stream_is_the_same(self, make_store: Any, tmp_path: Path) -> None:
        store = make_store()
        other = JetStreamEventStore(store.connection, store.stream)

        def app(environ: Any, start_response: Any) -> Iterable[bytes]:
            other.append("a", Event(event_type="Paid", actor_id="a"), expected_version=ANY_VERSION)
            start_response("200 OK", list(PLAIN))
            return [b"done"]

        with other:
            one = store.project("p", print, into=SQLite(tmp_path / "r.db"))
            two = other.project("q", print, into=SQLite(tmp_path / "r.db"))
            assert ask(wrapped(app, one, projections=[one, two]), "POST").token.startswith("1.")


class TestReads:
    def test_they_wait(self, put: Put, projection: Projection) -> None:
        served = wrapped(reading, projection, timeout=PATIENCE)
        token = served._token(put().sequence)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(ask, served, HTTP_COOKIE=f"a=b; {COOKIE}={token}")
            with projection:
                assert answer.result(PATIENCE).headers == PLAIN
                assert projection.sequence >= 1
                assert ask(served, HTTP_AETHER_SYNC_WRITTEN=token).headers == PLAIN
        assert (served.stats().fresh, served.stats().stale) == (2, 0)

    def test_one_that_is_too_slow_is_said(self, put: Put, projection: Projection) -> None:
        served = wrapped(reading, projection)
        token = served._token(put().sequence)
        assert ask(served, HTTP_COOKIE=f"{COOKIE}={token}").headers == [*PLAIN, ("Aether-Sync-Stale", "timeout")]
        assert ask(served, "POST", HTTP_COOKIE=f"{COOKIE}={token}").headers == PLAIN
        assert served.stats().stale == 1

    def test_one_that_has_stopped_is_not_waited_for(self, store: InMemoryEventStore, put: Put, tmp_path: Path) -> None:
        def apply(db: object, stored: StoredEvent) -> None:
            raise LookupError

        put()
        served = wrapped(reading, store.project("q", apply, into=SQLite(tmp_path / "q.db")), timeout=PATIENCE)
        with served._projections[0]:
            answer = ask(served, HTTP_COOKIE=f"{COOKIE}={served._token(1)}")
        assert answer.header("Aether-Sync-Stale") == ["stopped"]

    def test_an_event_that_is_not_there_is_forgotten(self, projection: Projection) -> None:
        served = wrapped(reading, projection, timeout=60.0)
        answer = ask(served, HTTP_COOKIE=f"{COOKIE}={served._token(10**15)}")  # the suite's own time-out is shorter
        assert answer.header("Aether-Sync-Stale") == ["unknown"]
        assert answer.header("Set-Cookie")[0].startswith(f"{COOKIE}=; Path=/; Max-Age=0;")

    @pytest.mark.concurrent
    def test_many_at_once(self, put: Put, projection: Projection) -> None:
        def app(environ: Any, start_response: Any) -> Iterator[bytes]:
            stored = put() if environ["REQUEST_METHOD"] == "POST" else None
            start_response("200 OK", list(PLAIN))
            yield str(stored.sequence if stored else projection.sequence).encode()

        served = wrapped(app, projection, timeout=PATIENCE)

        def use(_: int) -> None:
            written = ask(served, "POST")
            assert written.token.partition(".")[0].encode() == written.body
            read = ask(served, HTTP_COOKIE=f"{COOKIE}={written.token}")
            assert read.headers == PLAIN
            assert int(read.body) >= int(written.body)

        with projection, ThreadPoolExecutor(8) as pool:
            list(pool.map(use, range(80)))
        assert served.stats().written == served.stats().fresh == 80


class TestTokens:
    def test_a_secret_is_exchanged(self, projection: Projection) -> None:
        old, new = wrapped(reading, projection), wrapped(reading, projection, secret=["another secret!!!", SECRET])
        assert new._opened(old._token(5)) == 5
        assert old._opened(new._token(5)) == 0

    def test_one_of_another_stream_is_left_alone(self, projection: Projection, tmp_path: Path) -> None:
        with InMemoryEventStore(namespace="other") as store:
            other = wrapped(reading, store.project("p", print, into=SQLite(tmp_path / "o.db")))
            served, token = wrapped(reading, projection), other._token(5)
            assert served._opened(token) == 0
            assert served.stats().refused == 0
            assert served._opened(token.replace(other._mark, served._mark)) == 0
            assert served.stats().refused == 1

    @pytest.mark.parametrize("by", ["cookies", "header"])
    def test_an_application_of_two_streams(
        self, by: str, store: InMemoryEventStore, put: Put, projection: Projection, tmp_path: Path
    ) -> None:
        with InMemoryEventStore(namespace="billing") as other:
            bills = other.project("b", lambda db, stored: None, into=SQLite(tmp_path / "bills.db"))

            def app(environ: Any, start_response: Any) -> Iterable[bytes]:
                if environ["REQUEST_METHOD"] == "POST":
                    put()
                    other.append("b", Event(event_type="Paid", actor_id="b"), expected_version=ANY_VERSION)
                start_response("200 OK", list(PLAIN))
                return [b""]

            inner = wrapped(app, projection, timeout=PATIENCE)
            outer = wrapped(inner, bills, timeout=PATIENCE)
            with projection, bills:
                written = ask(outer, "POST")
                jar = SimpleCookie[str]()
                for text in written.header("Set-Cookie"):
                    jar.load(text)
                cookies = "; ".join(f"{name}={one.value}" for name, one in jar.items())
                tokens = ", ".join(written.header("Aether-Sync-Written"))
                brought = {"HTTP_COOKIE": cookies} if by == "cookies" else {"HTTP_AETHER_SYNC_WRITTEN": tokens}
                assert ask(outer, **brought).headers == PLAIN
                assert projection.sequence == bills.sequence == 1
            for one in (inner, outer):
                assert (one.stats().written, one.stats().fresh, one.stats().refused) == (1, 1, 0)

    @given(data=st.data())
    def test_one_that_is_changed_is_refused(self, data: st.DataObject) -> None:
        served = SERVED
        token = served._token(data.draw(st.integers(1, 2**63 - 1)))
        at = data.draw(st.integers(0, len(token) - 1))
        other = data.draw(st.characters(max_codepoint=255))
        changed = token[:at] + other + token[at + 1 :]
        assert (served._opened(changed) > 0) == (changed == token)

    @given(text=st.text(st.characters(max_codepoint=255)))
    def test_any_text_is_refused_in_peace(self, text: str) -> None:
        environ = {"HTTP_COOKIE": f"{COOKIE}={text}", "HTTP_AETHER_SYNC_WRITTEN": text}
        assert SERVED._brought(environ) == 0
        assert SERVED._brought({"HTTP_COOKIE": text}) == 0

    @given(
        sequence=st.integers(1, 2**63 - 1),
        others=st.lists(st.text(st.characters(max_codepoint=255, exclude_characters=";")), max_size=5),
        at=st.integers(0, 5),
    )
    def test_it_is_found_among_others(self, sequence: int, others: list[str], at: int) -> None:
        token = SERVED._token(sequence)
        parts = [one for one in others if COOKIE not in one]
        parts.insert(at, f"{COOKIE}={token}")
        assert _cookies("; ".join(parts), COOKIE) == [token]
        assert SERVED._brought({"HTTP_COOKIE": ";".join(parts)}) == sequence

    def test_the_highest_of_several_counts(self) -> None:
        cookies = "; ".join(f"{COOKIE}={SERVED._token(number)}" for number in (3, 7, 5))
        assert SERVED._brought({"HTTP_COOKIE": cookies}) == 7


def _served() -> ReadYourWrites:
    store = InMemoryEventStore(namespace="shop")
    served = wrapped(reading, store.project("p", print, into=SQLite("never.db")))
    store.close()
    return served


SERVED = _served()


class TestBadInput:
    @pytest.mark.parametrize(
        ("option", "wrong"),
        [
            ("projections", []),
            ("projections", None),
            ("projections", ["p"]),
            ("projections", 5),
            ("secret", ""),
            ("secret", "short"),
            ("secret", []),
            ("secret", None),
            ("secret", 5),
            ("secret", [SECRET, ""]),
            ("timeout", None),
            ("timeout", -1),
            ("timeout", "soon"),
            ("methods", "GET"),
            ("methods", [5]),
            ("methods", ["GET\n"]),
            ("methods", None),
        ],
    )
    def test_an_option(self, projection: Projection, option: str, wrong: Any) -> None:
        with pytest.raises(InvalidOptionError, match=option if option != "projections" else "projections?") as raised:
            wrapped(reading, projection, **{option: wrong})
        assert "short" not in str(raised.value)

    @pytest.mark.parametrize("app", [None, "app", lambda environ: []])
    def test_an_application(self, projection: Projection, app: Any) -> None:
        with pytest.raises(InvalidOptionError):
            wrapped(app, projection)

    def test_projections_of_several_streams(self, projection: Projection, tmp_path: Path) -> None:
        with InMemoryEventStore(namespace="other") as store:
            other = store.project("p", print, into=SQLite(tmp_path / "o.db"))
            with pytest.raises(InvalidOptionError, match="of one stream, not of 'other', 'shop'"):
                wrapped(reading, projection, projections=[projection, other])
        with InMemoryEventStore(namespace="shop") as store:
            other = store.project("p", print, into=SQLite(tmp_path / "o.db"))
            with pytest.raises(InvalidOptionError, match="of one stream, not of several stores in memory"):
                wrapped(reading, projection, projections=[projection, other])


def test_flask(put: Put, projection: Projection) -> None:
    flask = pytest.importorskip("flask")
    app = flask.Flask("shop")
    app.post("/", endpoint="write")(lambda: {"sequence": put().sequence})
    app.get("/", endpoint="read")(lambda: {"sequence": projection.sequence})
    app.wsgi_app = wrapped(app.wsgi_app, projection, timeout=PATIENCE)
    with projection, app.test_client() as client:
        for _ in range(5):
            written = client.post("/")
            assert COOKIE in written.headers["Set-Cookie"]
            read = client.get("/")
            assert "Aether-Sync-Stale" not in read.headers
            assert read.json["sequence"] >= written.json["sequence"]
    assert app.wsgi_app.stats().fresh == 5
