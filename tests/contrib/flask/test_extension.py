"""The bus and the store of the current application: several in one process, and what is left of one that is dropped."""

import gc
import os
import threading
import time
import weakref

import pytest
from flask import Flask

from aether_sync import ANY_VERSION, EventTypes, NATSEventBus, NATSServer, StoreClosedError
from aether_sync.contrib.flask import Aether
from aether_sync.testing import BrokenLink

from ...support.common import PATIENCE, eventually, first_of, make_event, numbers
from .conftest import MakeApp


def test_each_application_has_its_own(aether: Aether, make_app: MakeApp) -> None:
    one, two = make_app(), make_app(AETHER_NAMESPACE="shop")
    with one.app_context():
        first, events = aether.bus, aether.bus.subscribe(">")
        aether.store.append("thing-1", make_event(1), expected_version=ANY_VERSION)
    with two.app_context():
        assert aether.bus is not first
        assert aether.store.last_sequence() == 0
        with aether.bus.subscribe("shop") as announced:
            aether.store.append("thing-2", make_event(2), expected_version=ANY_VERSION)
            assert announced.get(timeout=PATIENCE).actor_id == "thing-2"
    with events:
        assert events.get_batch(1, timeout=0) == []


def test_two_applications_use_two_prefixes_of_one_server(
    aether: Aether, make_app: MakeApp, server: NATSServer, prefix: str
) -> None:
    apps = [make_app(AETHER_URL=server.url, AETHER_PREFIX=prefix + end) for end in "ab"]
    with NATSEventBus(server.url, prefix=prefix + "b") as bus, bus.subscribe(">") as events:
        for number, app in enumerate(apps):
            with app.app_context():
                aether.bus.publish("n", make_event(number))
                aether.bus.flush(PATIENCE)
        assert numbers([events.get(timeout=PATIENCE)]) == [1]
        assert events.get_batch(1, timeout=0) == []


def test_outside_of_an_application_the_error_is_flasks(aether: Aether, make_app: MakeApp) -> None:
    make_app()
    for wrong in (lambda: aether.bus, lambda: aether.store, aether.health, aether.close):
        with pytest.raises(RuntimeError, match="Working outside of application context"):
            wrong()
    with pytest.raises(RuntimeError, match="Working outside of"), make_app().app_context():
        aether.publish_after_response("n", make_event())


def test_an_application_that_was_not_registered_is_named(aether: Aether, make_app: MakeApp) -> None:
    for app in (Flask(__name__), make_app()):
        other = Aether()
        with app.app_context(), pytest.raises(RuntimeError, match="Did you forget to call 'init_app'"):
            _ = other.bus
        with pytest.raises(RuntimeError, match="The Flask app is not registered"):
            other.close(app)


def test_an_application_has_one_extension(make_app: MakeApp) -> None:
    app = make_app()
    with pytest.raises(RuntimeError, match="already been registered"):
        Aether(app)


def test_the_constructor_registers(aether: Aether) -> None:
    app = Flask(__name__)
    app.config["AETHER_URL"] = "memory:"
    types = EventTypes()
    aether = Aether(app, types=types)
    with app.app_context():
        assert aether.bus.types is aether.store.types is types


@pytest.mark.parametrize("count", first_of([40, 200]))
def test_many_applications_leave_nothing(aether: Aether, server: NATSServer, prefix: str, count: int) -> None:
    threads = threading.active_count()
    refs = []
    for number in range(count):
        app = Flask(__name__)
        app.config["AETHER_URL"] = "memory:" if number % 20 else server.url
        app.config["AETHER_PREFIX"] = prefix
        aether.init_app(app)
        app.register_blueprint(aether.health_blueprint())
        with app.app_context():
            aether.bus.publish("n", make_event())
            aether.bus.flush(PATIENCE)
        if not number % 20:
            aether.close(app)
        refs.append(weakref.ref(app))
    del app
    gc.collect()
    assert [ref for ref in refs if ref() is not None] == []
    eventually(lambda: threading.active_count() <= threads, "the end of all threads")


def test_one_that_is_dropped_unclosed_is_warned_of(aether: Aether, server: NATSServer, prefix: str) -> None:
    app = Flask(__name__)
    app.config.from_mapping(AETHER_URL=server.url, AETHER_PREFIX=prefix)
    aether.init_app(app)
    with NATSEventBus(server.url, prefix=prefix) as bus, bus.subscribe("n") as events:
        with app.app_context():
            aether.bus.publish("n", make_event(7))
        del app
        with pytest.warns(ResourceWarning, match="unclosed"):
            gc.collect()
        assert numbers([events.get(timeout=PATIENCE)]) == [7]  # it was sent all the same


def test_what_is_closed_says_so(aether: Aether, make_app: MakeApp) -> None:
    app = make_app()
    assert aether.close(app)
    assert aether.close(app)  # again
    with app.app_context():
        assert not aether.health()
        with pytest.raises(StoreClosedError):
            aether.store.last_sequence()


def test_one_that_was_never_used_is_closed_at_once(aether: Aether, make_app: MakeApp) -> None:
    app = make_app(AETHER_URL="nats://127.0.0.1:1")
    begun = time.monotonic()
    assert aether.close(app, timeout=PATIENCE)
    assert time.monotonic() - begun < PATIENCE / 4


@pytest.mark.fault
def test_no_request_waits_for_a_server_that_is_away(
    aether: Aether, make_app: MakeApp, server: NATSServer, prefix: str, broken_link: BrokenLink
) -> None:
    broken_link.cut()
    app = make_app(AETHER_URL=broken_link.url, AETHER_PREFIX=prefix, AETHER_CONNECT_TIMEOUT=PATIENCE)

    @app.post("/<int:number>")
    def place(number: int) -> str:
        aether.bus.publish("n", make_event(number))
        return "placed"

    with NATSEventBus(server.url, prefix=prefix) as bus, bus.subscribe("n") as events:
        begun = time.monotonic()
        for number in range(3):
            assert app.test_client().post(f"/{number}").text == "placed"
        assert time.monotonic() - begun < PATIENCE / 4
        broken_link.restore()
        assert numbers(events.get(timeout=PATIENCE) for _ in range(3)) == [0, 1, 2]


def test_a_forked_child_has_a_connection_of_its_own(
    aether: Aether, make_app: MakeApp, server: NATSServer, prefix: str
) -> None:
    app = make_app(AETHER_URL=server.url, AETHER_PREFIX=prefix, AETHER_STREAM=None)
    with NATSEventBus(server.url, prefix=prefix) as bus, bus.subscribe("n") as events:
        with app.app_context():
            aether.bus.publish("n", make_event(1))
            aether.bus.flush(PATIENCE)
            child = os.fork()
            if not child:
                aether.bus.publish("n", make_event(2))
                os._exit(0 if aether.close() else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            aether.bus.publish("n", make_event(3))
        assert numbers(events.get(timeout=PATIENCE) for _ in range(3)) == [1, 2, 3]
