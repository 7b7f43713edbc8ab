"""``Aether`` without a worker process: settings, the ids of events, what waits for success, and what stores once."""

import contextvars
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.exceptions import Ignore, ImproperlyConfigured, Reject
from celery.signals import worker_process_shutdown, worker_shutdown
from celery.utils.serialization import get_pickleable_exception

from aether_sync import (
    ANY_VERSION,
    NO_EVENTS,
    AetherError,
    BusClosedError,
    ConnectError,
    DuplicateIdError,
    EncodingError,
    Event,
    EventBus,
    EventTypes,
    InMemoryEventStore,
    InvalidEventError,
    InvalidNamespaceError,
    InvalidOptionError,
    JetStreamEventStore,
    NATSEventBus,
    NATSServer,
    StoreClosedError,
    UnknownOutcomeError,
    VersionConflictError,
    errors,
    flush_logs,
)
from aether_sync.contrib.celery import RETRYABLE, Aether, _aether

from ...support.common import first_of, run_threads

types = EventTypes()


@types.event("OrderPlaced")
@dataclass
class OrderPlaced:
    qty: int


@pytest.fixture
def app() -> Iterator[Celery]:
    """An application whose tasks run where they are called."""
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.update(task_always_eager=True, aether_url="memory://")
    yield app
    app.close()


@pytest.fixture
def aether(app: Celery) -> Iterator[Aether]:
    aether = Aether(app, types=types)
    yield aether
    aether.close()


def run(
    app: Celery, function: Callable[..., object], task_id: str = "task-1", name: str = "task", **options: Any
) -> Any:
    """Run a function as a task of this id."""
    app.tasks.pop(name, None)  # or the first of its name stays

    def work(*args: Any) -> object:
        return function(*args)

    return app.task(work, name=name, shared=False).apply(task_id=task_id, **options)


class TestSettings:
    def test_they_are_those_of_bus_store_and_connection(self, server: NATSServer, prefix: str) -> None:
        app = Celery("shop", set_as_current=False)
        aether = Aether(app)
        app.conf.update(aether_url=server.url, aether_prefix=prefix, aether_stream="s", aether_namespace=prefix)
        bus, store = aether.bus, aether.store
        assert isinstance(bus, NATSEventBus)
        assert isinstance(store, JetStreamEventStore)
        assert aether.bus is bus
        assert store.connection is bus.connection
        assert (bus.prefix, store.stream) == (prefix, f"{prefix}=s")
        assert not bus.connection.started
        with bus.subscribe_to_event_stored(prefix) as told:
            store.append("order-1", Event(event_type="X", actor_id="order-1"), expected_version=NO_EVENTS)
            assert told.get(timeout=5).actor_id == "order-1"
        assert aether.close()
        assert bus.closed
        assert store.closed

    def test_they_may_have_the_namespace_of_the_configuration(self) -> None:
        app = Celery("shop", set_as_current=False)
        aether = Aether(app)
        source = SimpleNamespace(CELERY_AETHER_URL="memory://", CELERY_TASK_ALWAYS_EAGER=True, AETHER_OTHER=1)
        app.config_from_object(source, namespace="CELERY")
        assert type(aether.bus) is EventBus
        assert isinstance(aether.store, InMemoryEventStore)
        aether.close()

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"aether_ulr": "x"}, "there is no setting 'aether_ulr': did you mean aether_url?"),
            ({"AETHER_STEAM": "x"}, "there is no setting 'aether_steam': did you mean aether_stream?"),
            ({"aether_ping_interval": "soon"}, "ping_interval must be seconds"),
            ({"aether_close_timeout": 0}, "close_timeout must be seconds"),
            ({"aether_replicas": "three"}, "replicas must be a whole number"),
            ({"aether_prefix": "a.b"}, "prefix"),
            ({"aether_prefix": "events"}, "stream"),
            ({"aether_prefix": "events", "aether_url": "memory:"}, "stream"),
            ({"aether_replicas": 9}, "replicas must be a whole number, 1 or more, at most 5"),
            ({"aether_url": 7}, "wants a URL"),
            ({"aether_on_disconnect": "drop"}, "on_disconnect must be one of 'buffer', 'raise'"),
        ],
    )
    def test_a_wrong_one_is_named_where_the_application_is_configured(
        self, settings: dict[str, object], said: str
    ) -> None:
        app = Celery("shop", set_as_current=False)
        aether = Aether(app)
        app.conf.update(settings)
        with pytest.raises(ImproperlyConfigured, match="Celery shop") as raised:
            app.conf.broker_url
        assert said in str(raised.value)
        with pytest.raises(ImproperlyConfigured):
            aether.store

    def test_one_that_comes_later_is_used_or_refused(self, app: Celery) -> None:
        app.conf.finalize()
        aether = Aether(app)
        app.conf.aether_prefix = "no.prefix"
        assert type(aether.bus) is EventBus, "without a server there is none"
        aether.close()
        app.conf.aether_url = "nats://127.0.0.1:1"
        with pytest.raises(ImproperlyConfigured):
            aether.bus

    def test_an_application_that_is_configured_already_is_checked_at_once(self) -> None:
        app = Celery("shop", set_as_current=False)
        app.conf.update(aether_steam="x")
        app.conf.finalize()
        with pytest.raises(ImproperlyConfigured):
            Aether(app)

    @pytest.mark.parametrize("wrong", [None, "shop", SimpleNamespace()])
    def test_it_wants_an_application(self, wrong: Any) -> None:
        with pytest.raises(InvalidOptionError, match=r"Aether\(app\)"):
            Aether(wrong)
        with pytest.raises(InvalidOptionError, match="EventTypes"):
            Aether(Celery(set_as_current=False), types=wrong or "types")


class TestIds:
    def test_each_run_of_a_task_makes_the_same(self, app: Celery, aether: Aether) -> None:
        def make() -> list[str]:
            made = [aether.event("Placed", f"order-{n}") for n in (1, 1, 2)]
            return [*(one.id for one in made), aether.event_id("a"), aether.event("Placed", "order-1", key="a").id]

        first, again = (run(app, make).get() for _ in range(2))
        assert first == again
        assert len(set(first)) == 5
        assert not set(first) & set(run(app, make, "task-2").get())
        assert not set(first) & set(run(app, make, name="other").get()), (
            "another task of this id has replaced the first"
        )

    def test_they_must_never_change(self, app: Celery, aether: Aether) -> None:
        def make() -> tuple[str, str, str]:
            return (
                aether.event("Placed", "order-1").id,
                aether.event("Placed", "order-1", key="a").id,
                aether.event_id("a"),
            )

        assert run(app, make).get() == (
            "9dd37748f26f57bf9e3fe213c233db98", "4f5657dd80405d188a7f16971f1b0d49", "83cf54906a735894bd70e27d399495cb"
        )  # fmt: skip

    def test_the_order_of_different_events_and_of_those_with_keys_does_not_matter(
        self, app: Celery, aether: Aether
    ) -> None:
        def make(names: list[str]) -> dict[str, str]:
            made = {name: aether.event("Placed", f"order-{name}").id for name in names}
            return made | {f"key {name}": aether.event("Line", "order", key=name).id for name in names}

        assert run(app, make, args=(["a", "b"],)).get() == run(app, make, args=(["b", "a"],)).get()

    def test_a_task_that_is_called_as_a_function_belongs_to_the_run_that_calls_it(
        self, app: Celery, aether: Aether
    ) -> None:
        @app.task(shared=False)
        def inner() -> str:
            return aether.event("Placed", "order-1").id

        def outer() -> list[str]:
            return [inner(), aether.event("Placed", "order-1").id]

        first, second = run(app, outer).get()
        assert [first, second] == run(app, outer).get()
        assert first != second

    def test_in_a_task_that_is_called_as_a_function_they_are_new(self, app: Celery, aether: Aether) -> None:
        @app.task(shared=False)
        def make() -> tuple[Event, str]:
            return aether.event("Placed", "order-1"), aether.event_id("a")

        assert not {make()[0].id, make()[1]} & {make()[0].id, make()[1]}
        assert make()[0].metadata == {}

    def test_without_a_task_they_are_refused(self, app: Celery, aether: Aether) -> None:
        def task() -> list[object]:
            made: list[object] = []

            def make() -> None:
                try:
                    made.append(aether.event_id("a"))
                except AetherError as error:
                    made.append(error)

            run_threads(make)
            run_threads(partial(contextvars.copy_context().run, make))
            return [*made, aether.event_id("a")]

        refused, copied, own = run(app, task).get()
        assert isinstance(refused, AetherError)
        assert "none runs on this thread" in str(refused)
        assert copied == own
        for call in (
            lambda: aether.event_id("a"),
            lambda: aether.event("Placed", "order-1"),
            lambda: aether.append("order-1", OrderPlaced(1), expected_version=ANY_VERSION),
            lambda: aether.publish_on_success("orders", Event(event_type="X", actor_id="x")),
        ):
            with pytest.raises(AetherError, match="none runs on this thread"):
                call()

    @pytest.mark.parametrize("key", ["", 7, b"x", "a\nb"])
    def test_a_key_is_a_text(self, app: Celery, aether: Aether, key: Any) -> None:
        for make in (lambda: aether.event_id(key), lambda: aether.event("Placed", "order-1", key=key)):
            assert isinstance(run(app, make, throw=False).result, InvalidOptionError)

    def test_events_name_the_task_as_their_cause(self, app: Celery, aether: Aether) -> None:
        def make() -> tuple[Event, Event]:
            own = {"causationId": "event-7", "userId": "anna"}
            return aether.event("Placed", "o"), aether.event("Placed", "o", metadata=own)

        plain, told = run(app, make).get()
        assert plain.metadata == {"correlationId": "task-1", "causationId": "task-1"}
        assert told.metadata == {"correlationId": "task-1", "causationId": "event-7", "userId": "anna"}


class TestPublishingOnSuccess:
    @pytest.mark.parametrize(
        ("end", "published"),
        [(None, 2), (ValueError("x"), 0), (Reject("x", requeue=False), 0), (Ignore(), 0)],
        ids=["succeeds", "fails", "is rejected", "is ignored"],
    )
    def test_nothing_is_published_unless_the_task_succeeds(
        self, app: Celery, aether: Aether, end: BaseException | None, published: int
    ) -> None:
        def task() -> None:
            data = {"n": 1}
            for n in range(2):
                data["n"] = n
                aether.publish_on_success("told", aether.event("Told", "a", data))
            data["n"] = 7
            assert events.get_batch(1, timeout=0) == []
            if end is not None:
                raise end

        with aether.bus.subscribe("told") as events:
            run(app, task, throw=False)
            assert [one.data for one in events.get_batch(9, timeout=0)] == [{"n": n} for n in range(published)]

    def test_a_task_that_is_retried_publishes_what_its_last_run_has_made(self, app: Celery, aether: Aether) -> None:
        @app.task(bind=True, shared=False, autoretry_for=RETRYABLE, retry_backoff=False, default_retry_delay=0)
        def task(self: Any) -> None:
            aether.publish_on_success("told", aether.event("Told", "a", {"run": self.request.retries}))
            if self.request.retries < 2:
                raise ConnectError("no server")

        with aether.bus.subscribe("told") as events:
            assert task.delay().state == "SUCCESS"
            assert [one.data for one in events.get_batch(9, timeout=0)] == [{"run": 2}]

    def test_a_task_within_another_has_its_own(self, app: Celery, aether: Aether) -> None:
        @app.task(shared=False)
        def inner(fails: bool) -> None:
            aether.publish_on_success("told", aether.event("Inner", str(fails)))
            if fails:
                raise ValueError

        def outer() -> None:
            aether.publish_on_success("told", aether.event("Outer", "a"))
            inner.apply(args=(False,))
            inner.apply(args=(True,), throw=False)
            aether.publish_on_success("told", aether.event("Outer", "b"))

        with aether.bus.subscribe("told") as events:
            run(app, outer)
            told = [(one.event_type, one.actor_id) for one in events.get_batch(9, timeout=0)]
        assert told == [("Inner", "False"), ("Outer", "a"), ("Outer", "b")]

    def test_a_plain_call_of_a_task_publishes_at_once(self, app: Celery, aether: Aether) -> None:
        @app.task(shared=False)
        def task() -> None:
            aether.publish_on_success("told", aether.event("Told", "a"))
            raise ValueError

        with aether.bus.subscribe("told") as events:
            with pytest.raises(ValueError):  # noqa: PT011
                task()
            assert events.get_batch(9, timeout=0)

    def test_what_cannot_be_published_fails_the_task(self, app: Celery, aether: Aether) -> None:
        for error, namespace, event in (
            (InvalidNamespaceError, "a.*", Event(event_type="X", actor_id="x")),
            (InvalidEventError, "a", {"event_type": "X"}),
            (EncodingError, "a", Event(event_type="X", actor_id="x", data={"x": {1, 2}})),
        ):
            done = run(app, partial(aether.publish_on_success, namespace, event), throw=False)
            assert isinstance(done.result, error)

    def test_what_cannot_be_published_any_more_is_logged(
        self, app: Celery, aether: Aether, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def task() -> None:
            aether.publish_on_success("told", aether.event("Told", "a"))
            aether.bus.close()

        assert run(app, task).state == "SUCCESS"
        flush_logs()
        (record,) = [one for one in caplog.records if getattr(one, "kind", "") == "not_published"]
        assert (record.levelname, record.namespace, record.actor) == ("ERROR", "told", "a")  # type: ignore[attr-defined]

    @pytest.mark.parametrize("what", ["on_success", "the result"])
    def test_what_celery_does_not_call_a_success_is_logged(
        self, app: Celery, aether: Aether, caplog: pytest.LogCaptureFixture, what: str
    ) -> None:
        def task(*_: object) -> None:
            aether.publish_on_success("told", aether.event("Told", "a"))

        def fail(*_: object, **__: object) -> None:
            raise MemoryError(what)

        base = type("Failing", (app.Task,), {"on_success": fail} if what == "on_success" else {})
        work = app.task(task, shared=False, base=base)
        if what == "the result":
            work.backend.mark_as_done = fail
        with aether.bus.subscribe("told") as events:
            with pytest.raises(MemoryError):
                work.apply(throw=True)
            assert events.get_batch(9, timeout=0) == []
        flush_logs()
        (record,) = [one for one in caplog.records if getattr(one, "kind", "") == "not_published"]
        assert "its result could not be stored" in record.getMessage()


STORES = pytest.mark.parametrize("url", ["memory://", "server"])


class TestAppending:
    @pytest.fixture(autouse=True)
    def settle(self, app: Celery, url: str, server: NATSServer, prefix: str) -> None:
        app.conf.update(aether_url=server.url if url == "server" else url, aether_stream=prefix)

    @STORES
    @pytest.mark.parametrize("expected", [NO_EVENTS, ANY_VERSION], ids=["no events", "any version"])
    def test_a_second_run_gets_what_the_first_has_stored(self, app: Celery, aether: Aether, expected: Any) -> None:
        def task(qty: int) -> Any:
            return aether.append("o", OrderPlaced(qty), aether.event("Told", "o"), expected_version=expected)

        first = run(app, task, args=(1,)).get()
        aether.store.append("o", Event(event_type="Other", actor_id="o"), expected_version=2)
        again = run(app, task, args=(2,)).get()
        assert [(one.event, one.sequence) for one in again] == [(one.event, one.sequence) for one in first]
        assert [one.duplicate for one in [*first, *again]] == [False, False, True, True]
        assert [one.event_type for one in aether.store.get_events("o")] == ["OrderPlaced", "Told", "Other"]
        assert again[0].event.value == OrderPlaced(1)

    @STORES
    def test_a_second_run_decides_on_another_version(self, app: Celery, aether: Aether) -> None:
        def task() -> Any:
            version = aether.store.load("o").version
            return aether.append("o", aether.event("Counted", "o"), expected_version=version)

        for _ in range(3):
            assert run(app, task).get()[0].event.version == 1
        assert run(app, task, "task-2").get()[0].event.version == 2

    @STORES
    def test_another_writer_is_a_conflict(self, app: Celery, aether: Aether) -> None:
        aether.store.append("o", Event(event_type="Other", actor_id="o"), expected_version=NO_EVENTS)
        done = run(app, lambda: aether.append("o", OrderPlaced(1), expected_version=NO_EVENTS), throw=False)
        assert isinstance(done.result, VersionConflictError)
        assert len(aether.store.get_events("o")) == 1

    @STORES
    def test_a_part_of_what_is_stored_is_refused(self, app: Celery, aether: Aether) -> None:
        run(app, lambda: aether.append("o", OrderPlaced(1), expected_version=NO_EVENTS))
        done = run(
            app,
            lambda: aether.append("o", OrderPlaced(1), aether.event("More", "o"), expected_version=NO_EVENTS),
            throw=False,
        )
        assert isinstance(done.result, DuplicateIdError)
        assert "without 'More'" in str(done.result)

    @STORES
    def test_one_event_twice_is_refused(self, app: Celery, aether: Aether) -> None:
        def task() -> None:
            event = aether.event("Told", "o")
            aether.append("o", event, event, expected_version=ANY_VERSION)

        assert isinstance(run(app, task, throw=False).result, DuplicateIdError)

    @STORES
    @pytest.mark.concurrent
    @pytest.mark.parametrize("expected", [NO_EVENTS, ANY_VERSION], ids=["no events", "any version"])
    def test_runs_at_the_same_time_store_once(
        self, app: Celery, aether: Aether, expected: Any, fast_switching: None
    ) -> None:
        actors = [f"o-{n}" for n in range(8)]

        @app.task(shared=False)
        def task(qty: int) -> list[int]:
            made = [aether.append(one, OrderPlaced(qty), expected_version=expected, timeout=120.0) for one in actors]
            return [one.sequence for (one,) in made]

        app.finalize()  # which Celery's threads must not do at the same time
        got: list[list[int]] = []
        run_threads(*(lambda qty=qty: got.append(task.apply(args=(qty,), task_id="same").get()) for qty in range(6)))  # type: ignore[misc]
        assert all(one == got[0] for one in got)
        assert [len(aether.store.get_events(actor)) for actor in actors] == [1] * len(actors)

    @STORES
    def test_nothing_is_nothing(self, app: Celery, aether: Aether) -> None:
        assert run(app, lambda: aether.append("o", expected_version=3)).get() == []
        plain = Event(event_type="X", actor_id="o")
        assert aether.append("o", plain, expected_version=NO_EVENTS)[0].event.id == plain.id, "not only in tasks"

    @STORES
    def test_an_object_needs_types(self, app: Celery) -> None:
        bare = Aether(app)
        done = run(app, lambda: bare.append("o", OrderPlaced(1), expected_version=NO_EVENTS), throw=False)
        assert isinstance(done.result, InvalidEventError)
        bare.close()


class TestClosing:
    def test_the_next_use_makes_new_ones(self, aether: Aether) -> None:
        bus, store = aether.bus, aether.store
        assert aether.close()
        assert aether.close(0)
        with pytest.raises(BusClosedError):
            bus.publish("a", Event(event_type="X", actor_id="x"))
        with pytest.raises(StoreClosedError):
            store.load("a")
        assert aether.bus is not bus
        assert "open" in repr(aether)

    @pytest.mark.slow
    @pytest.mark.parametrize("pool", first_of(["solo", "threads"]))
    def test_a_worker_that_has_shut_down_closes_those_of_its_application(
        self, server: NATSServer, prefix: str, pool: str
    ) -> None:
        app = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
        other = Celery("other", set_as_current=False)
        other.conf.aether_url = "memory://"
        app.conf.update(aether_url=server.url, aether_prefix=prefix, aether_stream=f"{prefix}-s")
        aether, others = Aether(app), Aether(other)
        app.loader.import_module("celery.contrib.testing.tasks")

        @app.task(name="place", shared=False)
        def place(order: str) -> None:
            aether.append(order, aether.event("Placed", order), expected_version=NO_EVENTS)
            aether.publish_on_success("told", aether.event("Told", order))

        kept = others.bus
        with (
            NATSEventBus(server.url, prefix=prefix) as bus,
            bus.subscribe("told") as events,
            start_worker(app, pool=pool, perform_ping_check=False, shutdown_timeout=60.0),
        ):
            for n in range(5):
                place.delay(f"order-{n}")
            assert sorted(events.get(timeout=20).actor_id for _ in range(5)) == [f"order-{n}" for n in range(5)]
        used = aether.bus
        worker_shutdown.send(sender=type("Worker", (), {"app": app}))  # one that is for tests sends none
        assert used.closed
        assert others.bus is kept
        assert len(aether.store.read_all()) == 5, "and what comes later opens it again"
        aether.close()
        others.close()
        app.close()

    def test_a_program_that_sends_tasks_closes_at_its_end(self, server: NATSServer, prefix: str) -> None:
        program = (
            "from celery import Celery; from aether_sync import Event; from aether_sync.contrib.celery import Aether\n"
            f"app = Celery('shop', changes={{'aether_url': {server.url!r}, 'aether_prefix': {prefix!r}}})\n"
            "aether = Aether(app)\n"
            "for n in range(1000): aether.bus.publish('told', Event(event_type='Told', actor_id=str(n)))\n"
        )
        with NATSEventBus(server.url, prefix=prefix) as bus, bus.subscribe("told") as events:
            done = subprocess.run(
                [sys.executable, "-W", "error::ResourceWarning", "-c", program],
                cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert (done.returncode, done.stderr) == (0, "")
            assert [one.actor_id for one in events.get_batch(2000, timeout=0)] == [str(n) for n in range(1000)]

    def test_making_them_begins_nothing(self, aether: Aether) -> None:
        aether.bus
        assert not [one for one in threading.enumerate() if one.name.startswith("aether-loop")]


class TestRetryable:
    def test_it_has_what_may_pass(self) -> None:
        told = {name for name in errors.__all__ if issubclass(getattr(errors, name), RETRYABLE)}
        assert told == {
            "BusClosedError", "ConnectError", "DeadlineExceededError", "DisconnectedError", "PublishTimeoutError",
            "ProjectionUnavailableError", "RetryableError", "StoreClosedError", "StoreUnavailableError",
            "TimeLimitExceededError", "UnknownOutcomeError", "VersionConflictError",
        }  # fmt: skip

    @pytest.mark.parametrize(
        "error",
        [
            VersionConflictError("o", 1, 2),
            UnknownOutcomeError("who knows", (Event(event_type="X", actor_id="o", data={"a": [1]}),)),
            ConnectError("no server"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_a_worker_passes_them_on(self, error: Exception) -> None:
        copy = pickle.loads(pickle.dumps(get_pickleable_exception(error)))
        assert type(copy) is type(error)
        assert (str(copy), vars(copy)) == (str(error), vars(error))


def test_a_process_that_may_be_killed_waits_before_it_writes_to_the_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Celery sends SIGKILL a tenth of a second after SIGTERM, and a queue that is written to then stays locked."""
    slept: list[float] = []
    monkeypatch.setattr(_aether, "time", SimpleNamespace(sleep=slept.append))
    worker_process_shutdown.send(sender=None, pid=0, exitcode=0)
    assert slept == []
    worker_process_shutdown.send(sender=None, pid=0, exitcode=signal.SIGTERM - 256)
    assert len(slept) == 1
    assert slept[0] > 0.1
