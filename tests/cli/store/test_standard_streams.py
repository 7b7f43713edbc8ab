"""Standard streams that are closed, full or lack characters, and signals that are blocked, where a command begins."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aether_sync import Event, JetStreamEventStore

from ...support.common import PATIENCE, first_of
from ...support.lines import events_of, fill, lines_of
from ...support.shell import COMMAND, environment, run


def shell(command: str, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run what a shell is told, with ``aether-sync`` as ``$A``."""
    done = subprocess.run(
        ["bash", "-c", command, "bash", *arguments],
        env=environment(A=" ".join(COMMAND), **changes),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=PATIENCE * 3,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize(
    "command",
    first_of(["events order-1", "guide", "actors", "export -", "doctor --json", "follow --until-caught-up"], 2),
)
def test_what_goes_to_a_closed_output_goes_nowhere(
    command: str, store: JetStreamEventStore, options: list[str]
) -> None:
    fill(store, events_of(10))
    done = shell(f'$A {command} "$@" >&-', *([] if command == "guide" else options))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("closed", ["<&-", "<&- >&- 2>&-"])
def test_a_closed_input_is_empty(closed: str, store: JetStreamEventStore, options: list[str]) -> None:
    done = shell(f'$A append a-1 "$@" {closed}', *options)
    assert done.returncode == run("append", "a-1", *options).returncode
    assert store.get_events("a-1") == []


def test_what_is_stored_is_told_though_the_output_is_closed(store: JetStreamEventStore, options: list[str]) -> None:
    done = shell("""echo '{"eventType": "Opened"}' | $A append a-1 "$@" >&-""", *options)
    assert (done.returncode, len(store.get_events("a-1"))) == (0, 1)
    assert "stored 1 event" in done.stderr


def test_a_full_disk_is_said_of_the_help(tmp_path: Path) -> None:
    done = shell("$A --help >/dev/full")
    assert (done.returncode, done.stderr) == (1, "aether-sync: [Errno 28] No space left on device\n")


def test_an_export_to_a_full_disk_says_how_far_it_came(
    store: JetStreamEventStore, options: list[str], tmp_path: Path
) -> None:
    fill(store, events_of(200))
    file = tmp_path / "events"
    done = shell('ulimit -f 8; $A export "$@"', str(file), *options)
    text = file.read_text()
    count = len(lines_of(text[: text.rindex("\n") + 1]))
    assert 0 < count < 200
    assert done.returncode == 1
    assert f"exported {count} events up to sequence {count}; interrupted" in done.stderr
    assert "File too large" in done.stderr
    done = shell('$A export "$@"', str(file), *options)
    assert f"exported {200 - count} events up to sequence 200; 200 events with those that were there" in done.stderr


def test_an_encoding_that_lacks_characters() -> None:
    done = shell("$A guide internals", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0
    assert "?" in done.stdout


def test_an_actor_that_is_not_utf8(store: JetStreamEventStore, options: list[str]) -> None:
    line = json.dumps({"eventType": "Opened"})
    done = shell(f"""echo '{line}' | $A append $'a-\\xff' "$@" """, *options)
    assert done.returncode == 2
    assert "has a lone surrogate" in done.stderr


@pytest.mark.parametrize("command", first_of([["server", "--port", "0"], ["follow"]]))
def test_signals_that_the_parent_has_blocked(
    command: list[str], store: JetStreamEventStore, options: list[str]
) -> None:
    store.append("a-1", Event(event_type="Opened", actor_id="a-1"), expected_version=0)
    blocked: Callable[[], Any] = lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # noqa: E731
    process = subprocess.Popen(
        [*COMMAND, *command, *(options if command == ["follow"] else [])],
        env=environment(),
        stdout=subprocess.PIPE,
        preexec_fn=blocked,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            process.terminate()
            assert process.wait(PATIENCE) in (0, 128 + signal.SIGTERM)
        finally:
            process.kill()
