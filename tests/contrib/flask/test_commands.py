"""``flask aether ...``: the commands of ``aether-sync``, as a shell runs them, with the settings of the application."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from aether_sync import ANY_VERSION, Connection, JetStreamEventStore, NATSServer, diagnose

from ...support.common import make_event
from ...support.shell import environment
from .conftest import BOOT


def flask(folder: Path, *command: str, stdin: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the application ``tests.programs.flasked``."""
    environ = {f"FLASK_AETHER_{name}": value for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", "tests.programs.flasked:app", "aether", *command],
        cwd=folder,
        env=environment(**environ),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=BOOT,
        check=False,
    )


def test_the_settings_are_the_defaults(server: NATSServer, prefix: str, tmp_path: Path) -> None:
    stream = f"{prefix}-events"
    settings = {"URL": server.url, "PREFIX": prefix, "STREAM": stream, "NAMESPACE": "shop"}
    with JetStreamEventStore(server.url, stream, namespace="shop") as store:
        store.append("thing-1", make_event(1), expected_version=ANY_VERSION)
    events = flask(tmp_path, "events", "thing-1", **settings)
    assert (events.returncode, events.stderr) == (0, "")
    assert json.loads(events.stdout)["data"] == {"n": 1}


@pytest.mark.slow
def test_an_option_stands_before_the_settings(server: NATSServer, prefix: str, tmp_path: Path) -> None:
    away = {"URL": "nats://shop:s3cret@127.0.0.1:1", "PREFIX": prefix}
    line = '{"eventType": "Placed", "actorId": "order-1"}\n'
    failed = flask(tmp_path, "pub", "orders", "--timeout", "0.5", stdin=line, **away)
    assert failed.returncode == 1
    assert failed.stderr.startswith("aether-sync: not connected to nats://127.0.0.1:1")
    assert "s3cret" not in failed.stderr
    done = flask(tmp_path, "pub", "orders", "--url", server.url, stdin=line, **away)
    assert (done.returncode, done.stderr) == (0, "aether-sync: sent 1 event, confirmed\n")


@pytest.mark.slow
def test_the_doctor_of_an_application_without_a_store_looks_at_the_bus(
    server: NATSServer, prefix: str, tmp_path: Path
) -> None:
    found = flask(tmp_path, "doctor", "--json", URL=server.url, PREFIX=prefix, STREAM="null")
    assert found.returncode == 0, found.stdout
    with Connection(server.url) as connection:
        wanted = diagnose(connection, store=False, prefix=prefix)
    assert [json.loads(line)["topic"] for line in found.stdout.splitlines()] == [one.topic for one in wanted]


@pytest.mark.slow
def test_what_is_in_memory_no_command_sees(tmp_path: Path) -> None:
    done = flask(tmp_path, "doctor", URL="memory:")
    assert done.returncode == 2
    assert "AETHER_URL of this app says that its bus and store are in the memory of each process" in done.stderr


@pytest.mark.slow
def test_help_is_there(tmp_path: Path) -> None:
    done = flask(tmp_path, "--help", URL="memory:")
    assert done.returncode == 0
    for command in ("doctor", "health", "run", "sub", "follow"):
        assert f"  {command} " in done.stdout
    assert " demo " not in done.stdout
    wrong = flask(tmp_path, "docter", URL="memory:")
    assert wrong.returncode == 2
    assert "No such command" in wrong.stderr


@pytest.mark.slow
def test_a_web_server_imports_no_command() -> None:
    code = (
        "import sys, tests.programs.flasked as one; one.aether.init_app(one.app); "
        "print([name for name in sys.modules if name.startswith(('aether_sync.cli', 'rich'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=BOOT, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
