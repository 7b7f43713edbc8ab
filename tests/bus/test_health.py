"""``health()`` of a connection, a bus, a store and a runner, with a server that comes and goes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from aether_sync import (
    ANY_VERSION,
    AetherError,
    Connection,
    Delivery,
    InvalidOptionError,
    JetStreamEventStore,
    NATSCluster,
    NATSEventBus,
    NATSServer,
    Runner,
    StoreUnavailableError,
    StreamMismatchError,
)
from aether_sync._nats import vitals
from aether_sync._runtime.deadline import Deadline

from ..support.common import PATIENCE, UNIT, FreePort, eventually, make_event
from ..support.inside import has_engine, jetstream_of, link_of, slot_of
from ..support.proxy import Proxy

MakeBus = Callable[..., NATSEventBus]
MakeStore = Callable[..., JetStreamEventStore]
ROOT = Path(__file__).parents[2]


def at_once(work: Callable[[], Any]) -> Any:
    """What a call returns that must not wait."""
    began = time.monotonic()
    found = work()
    assert time.monotonic() - began < PATIENCE / 4
    return found


# -- a connection


def test_before_the_first_connection_and_while_the_server_is_away(free_port: int) -> None:
    connection = Connection(f"nats://me:secret@127.0.0.1:{free_port}", ping_interval=UNIT)
    found = at_once(connection.health)
    assert (found.ok, found.alive) == (False, True)
    assert found.reasons[0].startswith(f"not connected to nats://127.0.0.1:{free_port}: ")
    assert has_engine(connection)  # it has begun to connect: else a process that is only probed would never be ready
    eventually(lambda: "refused" in connection.health().reasons[0])
    with NATSServer(port=free_port):
        eventually(lambda: connection.health().ok)
        found = connection.health()
        assert (found.reasons, found.alive, found.parts) == ((), True, ())
        assert found.about == f"the connection to nats://127.0.0.1:{free_port}"
        assert 0 <= found.numbers["seconds_since_server"] < PATIENCE
        assert "seconds_disconnected" not in found.numbers
    eventually(lambda: not connection.health().ok)
    found = at_once(connection.health)
    assert found.alive
    assert found.reasons[0].startswith(f"not connected to nats://127.0.0.1:{free_port}: ")
    assert found.numbers["seconds_disconnected"] <= found.numbers["seconds_since_server"]
    assert "secret" not in repr(found)
    connection.close()
    found = connection.health()
    assert (found.ok, found.alive) == (False, False)
    assert found.reasons[0].endswith(" is closed")


def test_a_connection_that_was_closed_unused() -> None:
    connection = Connection("nats://127.0.0.1:1")
    connection.close()
    assert not connection.health().alive
    assert not has_engine(connection)


@pytest.mark.fault
def test_signs_of_the_server_come_without_any_work(server: NATSServer) -> None:
    with Connection(server.url, ping_interval=0.05 * UNIT) as connection:
        heard = link_of(connection).heard
        eventually(lambda: link_of(connection).heard > heard + 0.1)
        assert connection.health().numbers["seconds_since_server"] < PATIENCE / 4


@pytest.mark.parametrize(("quiet", "alive"), [(11.0, True), (90.0, False)])
def test_a_loop_that_hangs(server: NATSServer, monkeypatch: pytest.MonkeyPatch, quiet: float, alive: bool) -> None:
    """The loop itself leaves a silent server; if it does not, and answers nothing, it does not run."""
    go, hanging = threading.Event(), threading.Event()
    with Connection(server.url, ping_interval=3.0) as connection:
        slot_of(connection).engine.loop.post(lambda: (hanging.set(), go.wait(PATIENCE)))
        try:
            assert hanging.wait(PATIENCE)
            link_of(connection).heard -= quiet
            for patience, as_expected in (5.0, True), (5.0, True), (0.0, alive):  # it is asked, and has time to answer
                monkeypatch.setattr(vitals, "_PATIENCE", patience)
                found = at_once(connection.health)
                assert (found.ok, found.alive) == (False, as_expected)
                assert found.reasons[0].startswith(f"no sign of {server.url} for {quiet:.0f} s")
                assert ("hangs" in found.reasons[0]) is not as_expected
        finally:
            go.set()
        link_of(connection).heard += quiet
        assert connection.health().ok


def test_a_process_that_was_stopped_hangs_not(server: NATSServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody ran meanwhile, so the time that has passed says nothing of the loop."""
    monkeypatch.setattr(vitals, "_PATIENCE", 0.0)
    with Connection(server.url, ping_interval=100.0) as connection:
        link = link_of(connection)
        eventually(lambda: link._client is not None and not link._client._pongs)  # the next PING is sent much later
        loop = slot_of(connection).engine.loop
        loop.call(asyncio.sleep, 0.01, deadline=Deadline(PATIENCE))  # what the last PONG has woken has run
        link.heard = link.since - 1_300  # as it looks to the first thread that runs again
        for _ in range(3):
            found = connection.health()
            assert (found.ok, found.alive) == (False, True)
            assert "hangs" not in found.reasons[0]
            eventually(lambda: loop._question.answered)


def test_an_outbox_that_is_nearly_full(free_port: int) -> None:
    bus = NATSEventBus(f"nats://127.0.0.1:{free_port}", connect="background", outbox_events=10, publish_timeout=0.0)
    bus.publish_many("n", [make_event()] * 8)
    assert len(bus.health().reasons) == 1
    bus.publish("n", make_event())
    found = bus.health()
    assert found.reasons[1].startswith(
        f"the outbox to nats://127.0.0.1:{free_port} is nearly full (90%): 9 events wait"
    )
    assert found.alive
    (numbers,) = (part.numbers for part in found.parts)
    assert (numbers["outbox_events"], numbers["outbox_filled"]) == (9, 0.9)
    assert numbers["outbox_bytes"] > 9 * 100
    eventually(lambda: bus.health().parts[0].numbers["seconds_oldest_waiting"] > 0.05)
    with NATSServer(port=free_port):
        bus.flush(PATIENCE)
        assert slot_of(bus).outbox.age() == 0.0
        assert bus.health().ok
    bus.close(0.1)


def test_how_long_the_oldest_event_has_waited(make_bus: MakeBus, server: NATSServer) -> None:
    with Proxy(server.port) as proxy:
        bus = make_bus(proxy.url, ping_interval=PATIENCE)
        bus.start()
        bus.flush()
        outbox = slot_of(bus).outbox
        assert outbox.age() == 0.0
        proxy.cut()
        eventually(lambda: not bus.is_connected)
        bus.publish("n", make_event())
        time.sleep(0.05)
        bus.publish("n", make_event())
        assert 0.05 <= outbox.age() < PATIENCE
        proxy.restore()
        assert bus.wait_connected(PATIENCE)
        eventually(lambda: outbox.age() == 0.0)


# -- a bus


def test_a_bus_is_well_while_its_connection_is(make_bus: MakeBus, server: NATSServer) -> None:
    connection = Connection(server.url)
    bus = make_bus(connection)
    with bus.subscribe("n", maxsize=4):
        bus.publish("n", make_event())
        found = bus.health()
        assert found.ok
        assert found.numbers == {"subscriptions": 1, "pending": 1, "fullest": 0.25}
        assert [part.about for part in found.parts] == [f"the connection to {server.url}"]
    connection.close()
    found = bus.health()
    assert (found.alive, found.reasons) == (False, (f"the connection to {server.url} is closed",))
    bus.close()
    assert bus.health().reasons == (f"NATSEventBus {bus.node_id[:8]} is closed",)


def test_a_full_subscription_is_no_reason(make_bus: MakeBus) -> None:
    bus = make_bus()
    with bus.subscribe("n", maxsize=1):
        bus.publish_many("n", [make_event()] * 3)
        assert bus.health().ok
        assert bus.health().numbers["fullest"] == 1.0


# -- a store


def test_a_store(make_store: MakeStore, prefix: str) -> None:
    store = make_store()
    store.connection.start()
    found = store.health(timeout=PATIENCE)
    assert (found.ok, found.numbers) == (True, {})  # the first save makes the stream
    for _ in range(3):
        store.append("a", make_event(actor_id="a"), expected_version=ANY_VERSION)
    found = store.health(timeout=PATIENCE)
    assert found.ok
    took = found.numbers["seconds_round_trip"]
    assert 0 < took < PATIENCE
    assert {**found.numbers, "bytes": 0, "seconds_round_trip": 0} == {
        "events": 3, "last_sequence": 3, "bytes": 0, "seconds_round_trip": 0, "replicas_missing": 0, "replica_lag": 0,
    }  # fmt: skip
    assert store.health(timeout=0).numbers == {}
    with pytest.raises(InvalidOptionError):
        store.health(timeout="soon")  # type: ignore[arg-type]
    store.close()
    assert store.health().reasons == (f"the store of stream {prefix!r} is closed",)
    assert not store.health().alive


def test_a_store_whose_stream_is_gone(own_server: NATSServer) -> None:
    with JetStreamEventStore(own_server.url) as store:
        store.append("a", make_event(actor_id="a"), expected_version=ANY_VERSION)
        assert jetstream_of(store).request("STREAM.DELETE.events", {}, Deadline(PATIENCE))["success"]
        found = store.health(timeout=PATIENCE)
        assert (found.ok, found.alive) == (False, True)
        assert found.reasons[0].startswith("stream 'events' is not there any more")


def test_a_stream_with_other_settings(store: JetStreamEventStore, prefix: str) -> None:
    """Every call would fail, so it must not be said to be well."""
    other = {"name": prefix, "subjects": [f"{prefix}.else.>"], "storage": "memory"}
    assert "error" not in jetstream_of(store).request(f"STREAM.CREATE.{prefix}", other, Deadline(PATIENCE))
    found = store.health(timeout=PATIENCE)
    assert (found.ok, found.alive) == (False, True)
    with pytest.raises(StreamMismatchError) as caught:
        store.get_events("a")
    assert found.reasons == (str(caught.value),)
    assert found.numbers["events"] == 0


@pytest.mark.parametrize(("limit", "room"), [("max_msgs", 1), ("max_bytes", 2000)])
def test_a_stream_that_is_full(store: JetStreamEventStore, prefix: str, limit: str, room: int) -> None:
    def limited(most: float) -> None:
        jetstream = jetstream_of(store)
        config = jetstream.request(f"STREAM.INFO.{prefix}", {}, Deadline(PATIENCE))["config"]
        answer = jetstream.request(f"STREAM.UPDATE.{prefix}", config | {limit: int(most)}, Deadline(PATIENCE))
        assert "error" not in answer

    def append() -> None:
        store.append("a", make_event(actor_id="a"), expected_version=ANY_VERSION)

    append()
    append()
    numbers = store.health(timeout=PATIENCE).numbers
    have = numbers["events" if limit == "max_msgs" else "bytes"]
    limited(have + room)
    assert store.health(timeout=PATIENCE).ok  # nearly full is no reason
    append()
    limited(store.health(timeout=PATIENCE).numbers["events" if limit == "max_msgs" else "bytes"])
    found = store.health(timeout=PATIENCE)
    assert (found.ok, found.alive) == (False, True)
    assert found.reasons[0].startswith(f"stream {prefix!r} is full: it has ")
    assert f"{limit} is " in found.reasons[0]
    with pytest.raises(StoreUnavailableError):
        append()


@pytest.mark.slow
@pytest.mark.fault
def test_a_cluster_without_a_majority() -> None:
    with NATSCluster(3) as cluster, JetStreamEventStore(cluster.urls, replicas=3) as store:
        eventually(lambda: saved(store), "a cluster that is ready")
        assert store.health(timeout=PATIENCE).ok
        (here,) = [one for one in cluster.servers if one.url.endswith(str(store.connection.server_info()["port"]))]
        for one in cluster.servers:
            if one is not here:
                one.kill()
        end = time.monotonic() + 4 * PATIENCE  # the leader itself notices it after ten seconds or so
        while (found := at_once(lambda: store.health(timeout=UNIT))).ok:
            assert time.monotonic() < end
            time.sleep(0.1)
        assert found.alive
        assert "stream 'events'" in found.reasons[0]


def saved(store: JetStreamEventStore) -> bool:
    with suppress(AetherError):
        return bool(store.append("a", make_event(actor_id="a"), expected_version=ANY_VERSION))
    return False


def test_a_server_without_jetstream() -> None:
    with NATSServer(jetstream=False) as server, JetStreamEventStore(server.url) as store:
        store.connection.start()
        found = store.health(timeout=0.3)
        assert (found.ok, found.alive) == (False, True)
        assert "stream 'events' cannot be used: " in found.reasons[0]


@pytest.mark.fault
def test_a_frozen_server_costs_the_timeout(own_server: NATSServer) -> None:
    with JetStreamEventStore(own_server.url, ping_interval=PATIENCE) as store:
        store.start()
        own_server.pause()
        began = time.monotonic()
        found = store.health(timeout=0.2)
        assert 0.15 < time.monotonic() - began < PATIENCE / 4
        own_server.resume()
        assert not found.ok
        assert "0.2 s" in found.reasons[0]
        eventually(lambda: store.health(timeout=PATIENCE).ok)


@pytest.mark.fault
def test_a_server_that_is_gone_raises_nothing(own_server: NATSServer) -> None:
    with JetStreamEventStore(own_server.url) as store:
        store.start()
        runner = store.consumer("c").run(lambda _: None)
        own_server.stop()
        eventually(lambda: not store.connection.is_connected)
        for one in (store, runner):
            found = at_once(lambda one=one: one.health(timeout=None))
            assert (found.ok, found.alive) == (False, True)
        own_server.start()
        eventually(lambda: runner.health(timeout=PATIENCE).ok)
        runner.close()


# -- a runner


@contextmanager
def stuck(store: JetStreamEventStore, **options: Any) -> Iterator[tuple[Runner, threading.Event]]:
    """A runner whose handler does not return until it is let."""
    go, begun = threading.Event(), threading.Event()

    def handle(_: Delivery) -> None:
        begun.set()
        go.wait(PATIENCE)

    for n in range(3):
        store.append("a", make_event(n, actor_id="a"), expected_version=ANY_VERSION)
    with store.consumer("stuck", **options).run(handle, threads=2) as runner:
        try:
            assert begun.wait(PATIENCE)
            yield runner, go
        finally:
            go.set()


def test_a_runner(store: JetStreamEventStore) -> None:
    with stuck(store) as (runner, go):
        eventually(lambda: runner.health(timeout=PATIENCE).numbers["waiting"] == 2)
        found = runner.health(timeout=PATIENCE)
        assert found.ok
        assert found.numbers["seconds_longest_handler"] > 0
        assert {**found.numbers, "seconds_longest_handler": 0} == {
            "threads": 2, "handlers": 1, "waiting": 2, "seconds_longest_handler": 0, "lag": 0, "unacknowledged": 3,
            "redelivered": 0,
        }  # fmt: skip
        assert "lag" not in runner.health(timeout=0).numbers
        go.set()
        eventually(lambda: runner.health(timeout=PATIENCE).numbers["unacknowledged"] == 0)
        assert runner.health().numbers["seconds_longest_handler"] == 0.0
    found = runner.health()
    assert (found.alive, found.reasons) == (False, ("the runner of consumer 'stuck' is closed",))


def test_a_handler_that_hangs(store: JetStreamEventStore) -> None:
    with stuck(store, ack_wait=0.05) as (runner, _):  # ten times of which is half a second
        time.sleep(0.05)
        found = runner.health(timeout=0, hung_after=0.01)
        assert (found.ok, found.alive) == (False, False)
        expected = r"the runner of consumer 'stuck': the handler has run for 0 s with event 1 (of 'a')"
        assert found.reasons == (expected,)
        assert runner.health(timeout=0, hung_after=100).ok
        eventually(lambda: not runner.health(timeout=0).ok)
        assert runner.health(timeout=0).alive  # nobody here knows how long it may take
        with pytest.raises(InvalidOptionError):
            runner.health(hung_after=0)


def test_a_runner_that_failed(store: JetStreamEventStore) -> None:
    consumer = store.consumer("gone")
    with consumer.run(lambda _: None) as runner:
        consumer.delete()
        eventually(lambda: not runner.health(timeout=PATIENCE).alive)
        assert runner.health().reasons[0].startswith("the runner of consumer 'gone' has ended: ")


# -- probes of a real web server


@contextmanager
def gunicorn(tmp_path: Path, server: NATSServer, prefix: str, *arguments: str, **more: str) -> Iterator[int]:
    free = FreePort()
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{free.number}", *arguments]
    env = {**os.environ, "NATS_URL": server.url, "AETHER_TEST_PREFIX": prefix, **more}
    with open(tmp_path / "gunicorn.log", "w+") as log:
        process = subprocess.Popen([*command, "tests.programs.probed:app"], cwd=ROOT, env=env, stdout=log, stderr=log)
        try:
            yield free.number
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
        assert process.returncode == 0, (tmp_path / "gunicorn.log").read_text()


def probed(port: int, path: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except OSError:  # it does not listen yet
        return 0, None


@pytest.mark.fault
@pytest.mark.parametrize("preload", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.slow
def test_probes_under_gunicorn(own_server: NATSServer, prefix: str, tmp_path: Path, preload: bool) -> None:
    arguments = ["--workers", "2", "--threads", "2", *["--preload"] * preload]
    with gunicorn(tmp_path, own_server, prefix, *arguments) as port:
        # Nothing has used the bus: the probes themselves make every worker ready.
        eventually(lambda: probed(port, "/healthz")[0] == 200, "readiness")
        eventually(lambda: all(probed(port, "/healthz")[0] == 200 for _ in range(10)), "of both workers")
        own_server.stop()
        eventually(lambda: all(probed(port, "/healthz")[0] == 503 for _ in range(10)), "the loss")
        body = probed(port, "/healthz")[1]
        assert body["alive"]
        assert all("not connected to nats://" in reason for reason in body["reasons"])
        began = time.monotonic()
        assert [probed(port, "/livez")[0] for _ in range(10)] == [200] * 10
        assert time.monotonic() - began < PATIENCE / 4
        own_server.start()
        eventually(lambda: all(probed(port, "/healthz")[0] == 200 for _ in range(10)), "the return")
        assert len(probed(port, "/healthz")[1]["parts"]) == 2


@pytest.mark.slow
@pytest.mark.fault
def test_a_runner_under_gunicorn(own_server: NATSServer, prefix: str, tmp_path: Path) -> None:
    with gunicorn(tmp_path, own_server, prefix, AETHER_TEST_RUNNER="1") as port:
        eventually(lambda: probed(port, "/healthz")[0] == 200, "readiness")
        with JetStreamEventStore(own_server.url, prefix) as store:
            assert store.consumer("mailer").delete()
        eventually(lambda: probed(port, "/livez")[0] == 503, "the end of the runner")
        assert "the runner of consumer 'mailer' has ended" in probed(port, "/livez")[1]["reasons"][0]
