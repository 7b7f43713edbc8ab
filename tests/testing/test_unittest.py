"""``AetherTestCase``: its attributes, what they share, and what it tells of a test."""

import unittest
from typing import Any

import pytest

from aether_sync import Event, InvalidOptionError, NATSServer, Worker
from aether_sync.testing import AetherTestCase, _guard, _unittest

from ..support.common import PATIENCE
from ..support.typed import Placed, typed

SMALL = "max_payload: 65536"


@pytest.fixture(scope="module", autouse=True)
def _servers() -> None:
    """They run until the process ends, and no test leaves them behind."""
    for config in ("", SMALL):
        _unittest._server(config)


def event(number: int = 1) -> Event:
    return Event(event_type="OrderPlaced", actor_id=f"order-{number}")


def run(case: type[unittest.TestCase]) -> unittest.TestResult:
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    return result


def passes(case: type[unittest.TestCase], count: int = 1) -> None:
    result = run(case)
    assert not [text for _, text in [*result.failures, *result.errors]]
    assert result.testsRun == count


class Uses(AetherTestCase):
    """pytest runs it, too."""

    def test_a_bus(self) -> None:
        published = self.published
        self.aether_bus.publish("orders.eu", event())
        assert published.expect("OrderPlaced", within=PATIENCE).actor_id == "order-1"
        published.nothing(within=0)

    def test_a_store(self) -> None:
        self.aether_store.append("order-1", event(), expected_version=0)
        assert self.aether_store.connection is self.aether_bus.connection is self.aether_connection
        assert self.aether_store.stream == self.aether_stream != self.aether_bus.prefix == self.aether_namespace
        assert self.aether_namespace.startswith("test-a-store-")

    def test_in_memory(self) -> None:
        with self.local_bus.subscribe("n"):
            self.local_bus.publish("n", event())
        self.memory_store.append("order-1", event(), expected_version=0)

    def test_what_is_published_on_a_local_bus(self) -> None:
        bus, published = self.local_bus, self.published
        bus.publish("n", event())
        published.expect("OrderPlaced", within=0)
        assert "aether_bus" not in self.__dict__

    def test_a_broken_link(self) -> None:
        link = self.broken_link
        self.aether_bus.start()
        link.cut()
        self.aether_logs.expect("disconnected", within=PATIENCE)
        self.aether_bus.publish("n", event())  # it is sent when the link is whole again


def test_it_has_what_the_plugin_has() -> None:
    passes(Uses, 5)


def test_all_is_closed_after_the_test() -> None:
    kept: list[Any] = []

    class Keeps(AetherTestCase):
        def test(self) -> None:
            kept.extend((self.aether_connection, self.aether_bus, self.aether_store, self.local_bus, self.memory_store))
            self.aether_bus.start()

        def tearDown(self) -> None:
            assert not any(one.closed for one in kept)

    passes(Keeps)
    assert all(one.closed for one in kept)


def test_one_server_serves_all_tests() -> None:
    urls = []

    class Asks(AetherTestCase):
        def test_one(self) -> None:
            urls.append(self.nats_url)
            assert self.nats_server.url == self.nats_url

        test_two = test_one

    class Configures(AetherTestCase):
        aether_server_config = SMALL

        def test_payload(self) -> None:
            urls.append(self.nats_url)
            self.aether_connection.start()
            assert self.aether_connection.server_info()["max_payload"] == 65536

    passes(Asks, 2)
    passes(Configures)
    first, second, other = urls
    assert first == second != other


def test_a_server_of_its_own_may_be_harmed() -> None:
    class Harms(AetherTestCase):
        def test(self) -> None:
            self.own_nats_server.kill()
            assert self.own_nats_server is not self.nats_server

    passes(Harms)


@pytest.mark.slow  # three servers
def test_a_cluster() -> None:
    class Harms(AetherTestCase):
        def test(self) -> None:
            self.nats_cluster.servers[0].kill()

    passes(Harms)


def test_a_server_that_is_there_already(server: NATSServer) -> None:
    class There(AetherTestCase):
        aether_nats_url = server.url

        def test(self) -> None:
            assert self.nats_url == server.url
            self.aether_store.append("order-1", event(), expected_version=0)
            with pytest.raises(InvalidOptionError, match="There uses the server of its aether_nats_url"):
                self.nats_server

    passes(There)


def test_its_types_are_those_of_all() -> None:
    class Types(AetherTestCase):
        aether_types = typed()

        def test(self) -> None:
            for store in (self.memory_store, self.aether_store):
                store.append("order-1", Placed(3, "EUR"), expected_version=0)
                assert [one.value for one in store.get_events("order-1")] == [Placed(3, "EUR")]
            assert self.local_bus.types is self.aether_bus.types is self.aether_types

    passes(Types)


def test_a_link_that_comes_too_late_is_refused() -> None:
    class Late(AetherTestCase):
        def test(self) -> None:
            self.aether_bus
            with pytest.raises(InvalidOptionError, match="use broken_link before it"):
                self.broken_link

    passes(Late)


def test_what_a_test_leaves_fails_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_guard, "_GRACE", 0.1)
    kept = []

    class Leaves(AetherTestCase):
        def test_and_passes(self) -> None:
            kept.append(self.local_bus)
            other = type(self.local_bus)()
            kept.append(other)
            self.subscription = other.subscribe("orders.*")

    result = run(Leaves)
    for bus in kept:
        bus.close()
    ((_, text),) = result.failures
    assert "a subscription to 'orders.*' is not closed" in text
    assert not result.errors


def test_a_handler_that_fails_fails_the_test() -> None:
    class Fails(AetherTestCase):
        expects = False

        def test(self) -> None:
            self.memory_store.append("order-1", event(), expected_version=0)
            consumer = self.memory_store.consumer("till", max_deliver=1)
            with consumer.run(lambda delivery: 1 / 0):
                consumer.wait_for(1, timeout=PATIENCE)
            if self.expects:
                self.aether_logs.expect("handler_failed", within=PATIENCE)

    class Expects(Fails):
        expects = True

    ((_, text),) = run(Fails).failures
    assert "ZeroDivisionError" in text
    passes(Expects)


def test_a_test_that_fails_says_only_why() -> None:
    kept = []

    class Fails(AetherTestCase):
        def test(self) -> None:
            kept.append(self.local_bus.subscribe("n"))
            kept.append(type(self.local_bus)().subscribe("n"))
            self.fail("it is wrong")

    result = run(Fails)
    for one in kept:
        one.close()
    ((_, text),) = result.failures
    assert text.endswith("AssertionError: it is wrong\n")
    assert not result.errors


def test_a_test_that_fails_in_part_says_only_why() -> None:
    kept = []

    class Leaves(AetherTestCase):
        def leave(self) -> None:
            kept.append(type(self.local_bus)().subscribe("n"))

    class FailsInASubtest(Leaves):
        def test(self) -> None:
            with self.subTest("x"):
                self.leave()
                self.fail("it is wrong")

    class FailsInSetUp(Leaves):
        def setUp(self) -> None:
            super().setUp()
            self.leave()
            self.fail("it is wrong")

        def test(self) -> None: ...

    class FailsInTearDown(Leaves):
        def test(self) -> None: ...

        def tearDown(self) -> None:
            self.leave()
            self.fail("it is wrong")

    for case in (FailsInASubtest, FailsInSetUp, FailsInTearDown):
        ((_, text),) = run(case).failures
        assert text.endswith("AssertionError: it is wrong\n")
    for one in kept:
        one.close()


@pytest.mark.parametrize("how", ["skips", "is expected to fail"])
def test_a_test_that_does_not_pass_is_told_nothing(how: str) -> None:
    kept = []

    class Leaves(AetherTestCase):
        def test(self) -> None:
            kept.append(type(self.local_bus)().subscribe("n"))
            self.skipTest("there is no redis") if how == "skips" else self.fail("known")

        if how != "skips":
            test = unittest.expectedFailure(test)

    result = run(Leaves)
    kept.pop().close()
    assert result.wasSuccessful()
    assert len(result.skipped) + len(result.expectedFailures) == 1


def test_a_worker_that_is_left_fails_its_test() -> None:
    class Leaves(AetherTestCase):
        def test(self) -> None:
            worker = Worker(bus=self.local_bus)
            worker.on("n")(lambda event: None)
            worker.start()

    ((_, text),) = run(Leaves).failures
    assert "  - <Worker with the handler " in text


def test_the_bus_and_the_store_do_not_hear_of_each_other() -> None:
    class Uses(AetherTestCase):
        def test(self) -> None:
            published = self.published
            self.aether_store.append("order-1", event(), expected_version=0)
            self.aether_bus.publish("events.order", event())
            self.aether_bus.flush(timeout=PATIENCE)
            assert self.aether_store.last_sequence() == 1
            published.expect(within=PATIENCE)
            published.nothing(within=0)

    passes(Uses)


def test_a_test_that_runs_twice_has_everything_anew() -> None:
    case = Uses("test_a_bus")
    for _ in "12":
        result = unittest.TestResult()
        case.run(result)
        assert result.wasSuccessful()


def test_who_sets_nothing_up_has_it_too() -> None:
    class Forgets(AetherTestCase):
        def setUp(self) -> None:
            pass

        def test(self) -> None:
            self.local_bus.publish("n", event())
            self.aether_logs.nothing()

    passes(Forgets)
