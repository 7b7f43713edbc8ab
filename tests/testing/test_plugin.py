"""The pytest plugin, run by pytest on tests as its users write them, alone and beside the plugins that they have."""

import sys
from pathlib import Path

import pytest

import pytest_aether_sync
from aether_sync import NATSServer
from aether_sync.testing import _guard

from ..support.common import PATIENCE

pytestmark = pytest.mark.slow

CONFTEST = """
    import pytest
    from aether_sync import Event

    @pytest.fixture
    def placed():
        return Event(event_type="OrderPlaced", actor_id="order-1", data={"qty": 3})
"""


#: Each process of the run, also one of xdist, writes where its threads are if it takes long, until it has ended: the
#: file is known by its number, so that it is still open at the exit.
STACKS = f"""
    import faulthandler
    import os
    from pathlib import Path

    stacks = os.open(Path(__file__).with_name(f"stacks-{{os.getpid()}}.txt"), os.O_CREAT | os.O_WRONLY)
    faulthandler.dump_traceback_later({PATIENCE * 2}, repeat=True, file=stacks)
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> "Run":
    """Runs tests with this plugin and no other one, in this process."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in ("CI", "BUILD_NUMBER"):  # either makes the summary of pytest repeat whole messages
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_guard, "_GRACE", 0.1)
    pytester.makeconftest(CONFTEST)
    return Run(pytester)


class Run:
    """Runs the text of a test module; what it should tell is in the result."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester

    def __call__(self, text: str, *options: str, ini: str = "") -> pytest.RunResult:
        self.pytester.makeini(f"[pytest]\nfilterwarnings = error\n{ini}")
        self.pytester.makepyfile(text)
        return self.pytester.runpytest_inprocess("-p", "pytest_aether_sync", "-p", "no:cacheprovider", *options)

    def apart(self, text: str, *options: str, ini: str = "") -> pytest.RunResult:
        """Run it in a process of its own."""
        self.pytester.makeini(f"[pytest]\nfilterwarnings = error\n{ini}")
        self.pytester.makepyfile(text)
        self.pytester.makeconftest(CONFTEST + STACKS)
        named = ("-p", "pytest_aether_sync", "-p", "no:cacheprovider")
        try:
            return self.pytester.runpytest_subprocess(*named, *options, timeout=PATIENCE * 10)
        except self.pytester.TimeoutExpired:
            for one in sorted(self.pytester.path.glob("stacks-*.txt")):
                print(f"-- where process {one.stem.removeprefix('stacks-')} is\n{one.read_text()}")
            raise


def test_every_fixture_works(run: Run) -> None:
    result = run(
        """
        import pytest
        from aether_sync import ANY_VERSION, NATSEventBus

        def test_a_bus(aether_bus, published, placed):
            aether_bus.publish("orders.eu", placed)
            assert published.expect("OrderPlaced", actor_id="order-1").data == {"qty": 3}
            published.nothing()

        def test_nobody_else_hears_of_it(aether_bus, published, nats_url, aether_namespace, placed):
            with NATSEventBus(nats_url, prefix=aether_namespace) as other, NATSEventBus(nats_url) as stranger:
                stranger.publish("orders.eu", placed)
                other.publish("refunds.eu", placed)
                stranger.flush()
            assert published.expect().namespace == "refunds.eu"
            published.nothing(within=0)

        def test_a_store(aether_store, aether_bus, aether_connection, aether_namespace, placed):
            assert aether_store.connection is aether_bus.connection is aether_connection
            assert aether_store.stream != aether_bus.prefix == aether_namespace
            aether_store.append("order-1", placed, expected_version=0)

        @pytest.mark.parametrize("number", [1, 2])
        def test_a_store_begins_empty(number, aether_store, placed):
            assert aether_store.append("order-1", placed, expected_version=0)[0].sequence == 1

        def test_in_memory(local_bus, memory_store, published, placed, request):
            memory_store.set_broadcaster(local_bus, "shop")
            memory_store.append("order-1", placed, expected_version=0)
            published.expect("EventStored", namespace="shop")
            assert "nats_server" not in request.fixturenames

        def test_a_server_of_its_own(own_nats_server, nats_server):
            own_nats_server.kill()
            assert own_nats_server.url != nats_server.url

        def test_a_broken_link(aether_bus, published, broken_link, aether_logs, placed):
            aether_bus.publish("n", placed)
            broken_link.cut()
            aether_logs.expect("disconnected")
            aether_bus.publish("n", placed)
            broken_link.restore()
            aether_logs.expect("reconnected")
            broken_link.stall()

        def test_logs(local_bus, placed, aether_logs):
            with local_bus.subscribe("n", maxsize=1):
                local_bus.publish_many("n", [placed] * 3)
                aether_logs.expect("drops")
            aether_logs.nothing()
        """
    )
    result.assert_outcomes(passed=9)


@pytest.mark.slow  # three servers
def test_a_cluster_may_be_harmed(run: Run) -> None:
    result = run(
        """
        def test_it(nats_cluster):
            nats_cluster.servers[0].kill()
            assert len(nats_cluster.servers) == 3
        """
    )
    result.assert_outcomes(passed=1)


def test_what_fails_is_told(run: Run) -> None:
    result = run(
        """
        import threading
        from aether_sync import EventBus

        kept = []

        def test_expects_what_does_not_come(local_bus, published, placed):
            local_bus.publish("orders.eu", placed)
            published.expect("OrderPlaced", actor_id="order-2", within=0)

        def work(store):
            store.append("order-1", store.event, expected_version=0)

        def test_has_a_handler_that_fails(memory_store, placed):
            memory_store.append("order-1", placed, expected_version=0)
            mailer = memory_store.consumer("mailer", max_deliver=1)
            with mailer.run(lambda delivery: 1 / 0):
                mailer.wait_for(1)

        def test_expects_a_handler_to_fail(memory_store, placed, aether_logs):
            memory_store.append("order-1", placed, expected_version=0)
            mailer = memory_store.consumer("mailer", max_deliver=1)
            with mailer.run(lambda delivery: 1 / 0):
                aether_logs.expect("handler_failed", consumer="mailer")

        def test_leaves_something(local_bus):
            kept.append(EventBus().subscribe("orders.*"))

        def test_fails_and_leaves_something(local_bus):
            kept.append(EventBus().subscribe("refunds.*"))
            assert False, "it is wrong"

        def test_closes_it(local_bus):
            for one in kept:
                one.close()
        """
    )
    result.assert_outcomes(passed=4, failed=2, errors=2)
    text = result.stdout.str()
    assert "actor_id is 'order-1', not 'order-2'" in text
    assert "ERROR at teardown of test_has_a_handler_that_fails" in text
    assert "the handler of consumer 'mailer' failed with event 1 (of order-1), attempt 1 of 1" in text
    assert "ZeroDivisionError: division by zero" in text
    assert "ERROR at teardown of test_leaves_something" in text
    assert "a subscription to 'orders.*' is not closed, of <EventBus" in text
    assert "a subscription to 'refunds.*'" not in text
    assert "_guard.py" not in text, "only what the user has to know"


def test_the_guard_can_be_asked_for_and_taken_off(run: Run) -> None:
    leaves = """
        from aether_sync import EventBus

        kept = []

        def test_it({fixture}):
            kept.append(EventBus().subscribe("orders.*"))

        def test_it_again():
            kept.pop().close()
    """
    run(leaves.format(fixture="tmp_path")).assert_outcomes(passed=2)
    run(leaves.format(fixture="tmp_path"), ini="usefixtures = aether_guard").assert_outcomes(passed=2, errors=1)
    run.pytester.makeconftest("import pytest\n\n@pytest.fixture\ndef aether_guard(): pass\n")
    run(leaves.format(fixture="local_bus")).assert_outcomes(passed=2)


def test_a_bus_and_a_store_of_one_test_do_not_hear_of_each_other(run: Run) -> None:
    result = run(
        """
        def test_it(aether_bus, aether_store, published, placed):
            aether_store.append("order-1", placed, expected_version=0)
            aether_bus.publish("events.order", placed)
            aether_bus.flush()
            assert published.expect().namespace == "events.order"
            published.nothing()
            assert aether_store.last_sequence() == 1

        def test_of_a_program(nats_url, aether_namespace, aether_stream, placed):
            from aether_sync import JetStreamEventStore, NATSEventBus
            with NATSEventBus(nats_url, prefix=aether_namespace) as bus:
                with JetStreamEventStore(bus.connection, aether_stream) as store, bus.subscribe(">") as events:
                    store.append("order-1", placed, expected_version=0)
                    bus.publish("events.order", placed)
                    bus.flush()
                    assert (events.get().namespace, events.get_batch(9, timeout=0.1)) == ("events.order", [])
                    assert store.last_sequence() == 1
        """
    )
    result.assert_outcomes(passed=2)


@pytest.mark.parametrize(
    "fixture",
    [
        "nats_url",
        "nats_server",
        "own_nats_server",
        "aether_namespace",
        "aether_stream",
        "aether_logs",
        "of_the_session",
    ],
)
def test_whoever_uses_a_fixture_is_guarded(run: Run, fixture: str) -> None:
    result = run(
        f"""
        import pytest
        from aether_sync import Event, EventBus, InMemoryEventStore

        kept = []

        @pytest.fixture(scope="session")
        def of_the_session(nats_url):
            with EventBus() as bus, bus.subscribe("session") as events:
                yield bus

        def test_leaves_something({fixture}):
            kept.append(EventBus().subscribe("orders.*"))

        def test_has_a_handler_that_fails({fixture}, placed):
            with InMemoryEventStore() as store:
                store.append("order-1", placed, expected_version=0)
                with store.consumer("mailer", max_deliver=1).run(lambda delivery: 1 / 0):
                    store.consumer("mailer").wait_for(1)

        def test_closes_it():
            kept.pop().close()
        """
    )
    result.assert_outcomes(passed=3, errors=2)


def test_each_failure_of_many_is_told(run: Run) -> None:
    result = run(
        """
        from aether_sync import Event

        def fail_often(memory_store, times):
            for number in range(times):
                event = Event(event_type="OrderPlaced", actor_id=f"order-{number}")
                memory_store.append(event.actor_id, event, expected_version=0)
            mailer = memory_store.consumer("mailer", max_deliver=1)
            with mailer.run(lambda delivery: 1 / 0):
                mailer.wait_for(times)

        def test_fails_often(memory_store):
            fail_often(memory_store, 50)

        def test_fails_too_often(memory_store):
            fail_often(memory_store, 150)

        def test_expects_each(memory_store, aether_logs):
            fail_often(memory_store, 2)
            for number in (1, 0):
                aether_logs.expect("handler_failed", actor=f"order-{number}")
        """
    )
    result.assert_outcomes(passed=3, errors=2)
    text = result.stdout.str()
    assert "and 49 more that were raised there:" in text
    for number in range(50):
        assert f"(of order-{number}), attempt 1 of 1" in text
    assert "and 50 failures more, which are not recorded" in text


def test_a_test_that_does_not_pass_is_told_nothing(run: Run) -> None:
    result = run(
        """
        import pytest
        from aether_sync import EventBus

        kept = []

        @pytest.fixture
        def left(local_bus):
            kept.append(EventBus().subscribe("n"))

        @pytest.fixture
        def left_and_broken(left):
            assert False, "it is wrong"

        @pytest.mark.xfail(reason="known", strict=True)
        def test_fails_as_is_known(left):
            assert False

        def test_fails_as_it_says(left):
            pytest.xfail("known")

        def test_is_skipped_midway(left):
            pytest.skip("there is no redis")

        def test_cannot_begin(left_and_broken):
            pass

        def test_passes(left):
            pass

        def test_closes_it():
            for one in kept:
                one.close()
        """
    )
    result.assert_outcomes(passed=2, xfailed=2, skipped=1, errors=2)
    assert result.stdout.str().count("left behind by this test") == 1, "of the one that passes"


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ("raise KeyboardInterrupt", 2, "KeyboardInterrupt"),
        ("pytest.exit('stop it all', returncode=7)", 7, "_pytest.outcomes.Exit: stop it all"),
        ("os.kill(os.getpid(), signal.SIGINT)", 2, "KeyboardInterrupt"),
    ],
    ids=["ctrl-c", "exit", "sigint"],
)
def test_a_run_that_is_interrupted_ends_as_any_other(run: Run, how: str, status: int, said: str) -> None:
    result = run.apart(
        f"""
        import os
        import signal

        import pytest
        from aether_sync import EventBus, NATSEventBus, Worker

        kept = []

        def test_it(aether_bus, aether_store, published, aether_logs, nats_url):
            kept.append(EventBus().subscribe("n"))
            kept.append(NATSEventBus(nats_url).subscribe("n"))
            worker = Worker(bus=aether_bus, store=aether_store)
            worker.on("n")(lambda event: None)
            worker.consume("c")(lambda delivery: None)
            worker.every(0.01)(lambda: None)
            worker.start()
            {how}
        """
    )
    text = result.stdout.str() + result.stderr.str()
    assert result.ret == status, text
    assert f"! {said}" in text
    assert "left behind" not in text
    assert "Traceback" not in text


def test_a_worker_that_is_left_fails_its_test(run: Run) -> None:
    result = run(
        """
        from aether_sync import Worker

        def test_leaves_one(local_bus):
            worker = Worker(bus=local_bus)
            worker.on("n")(lambda event: None)
            worker.start()
        """
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*- <Worker with the handler *<lambda> of 'n', started> is not closed"])


def test_a_link_that_comes_too_late_is_refused(run: Run) -> None:
    result = run(
        """
        def test_too_late(aether_bus, request):
            request.getfixturevalue("broken_link")

        def test_in_time(request):
            link, bus = request.getfixturevalue("broken_link"), request.getfixturevalue("aether_bus")
            bus.start()
            assert link.links == 1
        """
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["the connection of this test is made already, and does not go through broken_link*"])


def test_types_are_given_once(run: Run) -> None:
    result = run(
        """
        from dataclasses import dataclass
        import pytest
        from aether_sync import EventTypes

        types = EventTypes()

        @types.event("OrderPlaced")
        @dataclass
        class OrderPlaced:
            qty: int

        @pytest.fixture(scope="session")
        def aether_types():
            return types

        def test_it(aether_bus, local_bus, aether_store, memory_store, published):
            for store in (aether_store, memory_store):
                store.append("order-1", OrderPlaced(3), expected_version=0)
                assert [one.value for one in store.get_events("order-1")] == [OrderPlaced(3)]
            aether_bus.publish("orders.eu", types.to_event(OrderPlaced(3), actor_id="order-1"))
            assert published.expect(OrderPlaced).value == OrderPlaced(3)
            assert local_bus.types is types
        """
    )
    result.assert_outcomes(passed=1)


def test_servers_can_be_configured(run: Run) -> None:
    text = """
        def test_it(aether_connection, own_nats_server):
            aether_connection.start()
            assert aether_connection.server_info()["max_payload"] == 65536
    """
    run(text, ini="aether_server_config = max_payload: 65536").assert_outcomes(passed=1)


def test_the_environment_says_nothing_of_a_server_of_the_tests(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_CREDS", "/nowhere/of.creds")
    result = run(
        """
        def test_it(aether_bus, aether_store, broken_link, placed):
            aether_store.append("order-1", placed, expected_version=0)
        """
    )
    result.assert_outcomes(passed=1)


def test_a_configuration_that_is_wrong_is_named(run: Run) -> None:
    result = run("def test_it(nats_url): pass", ini="aether_server_config = max_payloads: 65536")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*ServerError*", '*unknown field "max_payloads"*'])


def test_a_server_that_runs_already_is_used_and_left_clean(run: Run, server: NATSServer) -> None:
    text = f"""
        from aether_sync import JetStreamEventStore

        def test_it(nats_url, aether_store, aether_logs, placed):
            assert nats_url == "{server.url}"
            aether_store.append("order-1", placed, expected_version=0)
            consumer = aether_store.consumer("c", max_deliver=1)
            with consumer.run(lambda delivery: 1 / 0):
                consumer.wait_for(1)
                aether_logs.expect("handler_failed")
                aether_logs.expect("gave_up")
            assert consumer.dead_letters()
            global stream
            stream = aether_store.stream

        def test_nothing_is_left(aether_connection):
            with JetStreamEventStore(aether_connection, stream) as store:
                assert store.last_sequence() == 0
                assert not store.consumer("c").dead_letters()

        def test_a_harmed_link(broken_link, aether_store, placed):
            aether_store.append("order-1", placed, expected_version=0)
            global stream
            stream = aether_store.stream
            broken_link.cut()

        test_nothing_is_left_either = test_nothing_is_left
    """
    run(text, ini=f"aether_nats_url = {server.url}").assert_outcomes(passed=4)


def test_a_server_that_runs_already_is_no_nats_server(run: Run, server: NATSServer) -> None:
    url = server.url.replace("://", "://u:secret@")
    result = run("def test_it(nats_server): pass", ini=f"aether_nats_url = {url}")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["there is no nats_server, as the option aether_nats_url names a server*"])
    result.stdout.no_fnmatch_line("*secret*")


@pytest.mark.slow
def test_a_server_that_is_away_is_an_error_at_once(run: Run, free_port: int) -> None:
    result = run("def test_it(aether_bus): pass", ini=f"aether_nats_url = nats://127.0.0.1:{free_port}")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*ConnectError*"])


def test_it_is_inert_and_found_by_its_entry_point(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(
        """
        import sys

        def test_it(request):
            assert request.config.pluginmanager.get_plugin("pytest_aether_sync")
            assert "aether_sync" not in sys.modules
            assert not {"asyncio", "nats", "msgspec"} & set(sys.modules)
        """
    )
    result = pytester.runpytest_subprocess("-p", "pytest_aether_sync", "-p", "no:cacheprovider", timeout=PATIENCE * 5)
    result.assert_outcomes(passed=1)


def test_it_stands_where_the_wheel_has_it() -> None:
    assert Path(pytest_aether_sync.__file__).parent == Path(sys.modules["aether_sync"].__file__ or "").parents[1]


# -- beside other plugins


EVERYTHING = """
    import asyncio
    import datetime
    import random
    import threading
    import time

    import anyio
    import freezegun
    import pytest
    import time_machine
    from aether_sync import Event

    LEAP = datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC)

    def event(number=1):
        return Event(event_type="OrderPlaced", actor_id=f"order-{number}")

    @pytest.mark.parametrize("number", range(5))
    def test_plain(number, aether_bus, aether_store, published, aether_namespace):
        aether_bus.publish("orders.eu", event(number))
        published.expect(actor_id=f"order-{number}")
        published.nothing(within=0.02)
        aether_store.append("order-1", event(), expected_version=0)
        assert aether_namespace.startswith("test-plain-")

    @pytest.mark.asyncio
    async def test_asyncio(aether_bus, published):
        with aether_bus.subscribe("n") as events:
            aether_bus.publish("n", event())
            async for one in events:
                assert one.actor_id == "order-1"
                break
        await asyncio.to_thread(published.expect, "OrderPlaced")

    @pytest.mark.anyio
    async def test_anyio(aether_bus, published):
        with aether_bus.subscribe("n") as events:
            aether_bus.publish("n", event())
            async for one in events:
                assert one.actor_id == "order-1"
                break
        await anyio.to_thread.run_sync(published.expect)

    @pytest.fixture
    def anyio_backend():
        return "asyncio"

    def test_frozen(aether_bus, aether_store, published, aether_logs):
        with freezegun.freeze_time(LEAP):
            waits_as_always(aether_bus, aether_store, published, aether_logs)

    def test_travelling(aether_bus, aether_store, published, aether_logs):
        with time_machine.travel(LEAP, tick=False):
            waits_as_always(aether_bus, aether_store, published, aether_logs)

    @freezegun.freeze_time(LEAP)
    def test_frozen_by_a_decorator(aether_bus, aether_store, published, aether_logs):
        waits_as_always(aether_bus, aether_store, published, aether_logs)

    @time_machine.travel(LEAP, tick=False)
    def test_travelling_by_a_decorator(aether_bus, aether_store, published, aether_logs):
        waits_as_always(aether_bus, aether_store, published, aether_logs)

    @pytest.fixture
    def frozen():
        with freezegun.freeze_time(LEAP):
            yield

    def test_frozen_before_and_after_all(frozen, aether_bus, aether_store, published, aether_logs):
        waits_as_always(aether_bus, aether_store, published, aether_logs)

    def waits_as_always(bus, store, published, logs):
        bus.publish("n", event())
        assert published.expect("OrderPlaced").timestamp == LEAP
        for fails in (published.expect, lambda within: logs.expect("drops", within=within)):
            begun = time.clock_gettime(time.CLOCK_MONOTONIC)
            with pytest.raises(AssertionError):
                fails(within=0.05)
            assert 0.04 < time.clock_gettime(time.CLOCK_MONOTONIC) - begun < 5
        published.nothing(within=0.02)
        store.append("order-1", event(), expected_version=0)

    def test_random(aether_bus):
        random.seed(1)  # which randomly does before each test
        assert aether_bus.prefix

    def test_random_again(aether_bus):
        random.seed(1)
        assert aether_bus.prefix
"""


@pytest.mark.slow  # it starts pytest with every plugin
@pytest.mark.parametrize("options", [["-n", "2"], ["-n", "0"]], ids=" ".join)
def test_beside_the_plugins_that_people_have(run: Run, monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    result = run.apart(EVERYTHING, *options, "--timeout", "60", ini="asyncio_default_fixture_loop_scope = function")
    result.assert_outcomes(passed=14)
    for name in ("randomly", "asyncio", "anyio", "timeout", "xdist", "time-machine", "aether-sync"):
        assert f"{name}-" in result.stdout.str(), f"{name} is installed"


@pytest.mark.slow  # it starts another process
@pytest.mark.parametrize("method", ["signal", "func_only"])
def test_a_test_that_hangs_is_ended_by_its_timeout(run: Run, method: str) -> None:
    how = 'method="signal"' if method == "signal" else 'method="signal", func_only=True'
    text = f"""
        import pytest

        @pytest.mark.timeout(1, {how})
        def test_hangs(aether_bus, published):
            published.expect("OrderPlaced", within=None)

        @pytest.mark.timeout(60, method="thread")
        def test_goes_on(aether_bus, published):
            published.nothing(within=0)
    """
    result = run.apart(text, "-p", "pytest_timeout")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*Timeout*1.0s*"])


@pytest.mark.slow  # it starts other processes
def test_each_worker_of_xdist_has_a_server_of_its_own(run: Run) -> None:
    text = """
        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_it(number, nats_url, worker_id, pytestconfig):
            (pytestconfig.rootpath / f"{worker_id}-{number}.url").write_text(nats_url)
    """
    run.apart(text, "-p", "xdist.plugin", "-p", "xdist.looponfail", "-n", "2").assert_outcomes(passed=4)
    urls = {(one.name.split("-")[0], one.read_text()) for one in run.pytester.path.glob("*.url")}
    assert len(urls) == len({worker for worker, _ in urls}) == 2
