"""The command ``health``: its exit status, with real servers."""

import json
import time

import pytest
from click.testing import CliRunner

from aether_sync import Connection, JetStreamEventStore, NATSServer
from aether_sync.cli._health import health

from ..support.common import PATIENCE, UNIT, make_event
from ..support.proxy import Proxy
from ..support.shell import run


def test_a_server_that_answers(server: NATSServer) -> None:
    found = run("health", "--url", server.url, "--timeout", str(PATIENCE))
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == f"ok    the connection to {server.url}\n"


def test_as_json(server: NATSServer) -> None:
    found = run("health", "--url", server.url, "--json", "--timeout", str(PATIENCE))
    assert found.returncode == 0
    answer = json.loads(found.stdout)
    assert (answer["ok"], answer["alive"], answer["reasons"]) == (True, True, [])
    assert answer["numbers"]["seconds_since_server"] < PATIENCE


@pytest.mark.slow
def test_a_server_that_is_not_there(nowhere: str) -> None:
    secret = nowhere.replace("//", "//me:secret@")
    began = time.monotonic()
    plain, as_json = run("health", "--url", secret), run("health", "--url", secret, "--json")
    assert time.monotonic() - began < PATIENCE
    assert (plain.returncode, as_json.returncode) == (1, 1)
    assert plain.stdout.startswith(f"bad   not connected to {nowhere}: connection refused")
    answer = json.loads(as_json.stdout)
    assert not answer["ok"]
    assert answer["reasons"][0].startswith(f"not connected to {nowhere}: connection refused")
    assert "secret" not in plain.stdout + plain.stderr + as_json.stdout + as_json.stderr


def test_a_stream(server: NATSServer, prefix: str, make_store: type[JetStreamEventStore]) -> None:
    patient = "--url", server.url, "--stream", prefix, "--timeout", str(PATIENCE)
    assert run("health", *patient).returncode == 0, "whoever makes it may wait for this"
    found = run("health", *patient, "--must-exist")
    assert found.returncode == 1
    assert f"there is no stream {prefix!r}" in found.stdout
    make_store().save_event(make_event(version=1))
    found = run("health", *patient, "--must-exist", "--json")
    assert found.returncode == 0
    assert json.loads(found.stdout)["numbers"]["events"] == 1


@pytest.mark.slow
def test_a_server_without_jetstream() -> None:
    with NATSServer(jetstream=False) as server:
        patient = "--url", server.url, "--timeout", str(PATIENCE)
        assert run("health", *patient).returncode == 0
        found = run("health", "--url", server.url, "--stream", "events")
        assert found.returncode == 1
        assert found.stdout.startswith("bad   ")
        assert "JetStream" in found.stdout


def test_the_timeout_is_for_all_of_it(own_server: NATSServer) -> None:
    """Each step alone is in time: to connect, and each question."""
    with JetStreamEventStore(own_server.url) as store:
        store.save_event(make_event(version=1))
    pause = 0.2 * UNIT
    with Proxy(own_server.port) as proxy:
        proxy.slow_down(delay=pause)
        began = time.monotonic()
        with Connection(proxy.url) as connection:
            connection.start()
            timeout = time.monotonic() - began + pause  # a question takes two pauses
        began = time.monotonic()
        result = CliRunner().invoke(health, ["--stream", "events", "--url", proxy.url, "--timeout", str(timeout)])
        took = time.monotonic() - began
    assert (result.exit_code, result.output[:6]) == (1, "bad   ")
    assert took < timeout + 2 * pause


@pytest.mark.parametrize(
    "options",
    [
        ["--timeout", "0"],
        ["--no-such"],
        ["--url", ""],
        ["--creds", "no/such"],
        ["--must-exist"],
        ["--stream", ""],
        ["--password", "@no/such"],
    ],
)
def test_whatever_is_wrong_the_exit_status_is_1(options: list[str]) -> None:
    """Docker reserves 2 for its own use."""
    found = run("health", *options)
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr
