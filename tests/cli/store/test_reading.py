"""``events``, ``follow``, ``actors``, and what all commands of the store have in common."""

import json
import re
import shlex
import signal
import subprocess
from collections.abc import Callable

import pytest

from aether_sync import Event, JetStreamEventStore, NATSServer
from aether_sync.stores._jetstream.error_codes import ErrorCode

from ...support.common import PATIENCE, UNIT
from ...support.inside import names_of
from ...support.lines import events_of, fill, line_of, lines_of, put_garbage
from ...support.shell import COMMAND, Running, environment, run
from ...support.stores import ask

READING = (["events", "order-1"], ["follow"], ["actors"], ["export"])


WRITING = (["append", "order-1"], ["import"])


# -- in general


@pytest.mark.slow
def test_help() -> None:
    found = run("--help")
    for command in ("append", "events", "follow", "actors", "export", "import", "doctor"):
        assert re.search(rf"^  {command} ", found.stdout, re.M)
        own = run(command, "--help")
        assert own.returncode == 0
        assert max(map(len, own.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    "command",
    [
        ["append"],
        ["append", "order-1", "--expect", "-1"],
        ["append", "order-1", "--expect", "some"],
        ["append", "order-1", "/no/such/file"],
        ["events"],
        ["events", ""],
        ["follow", "--after", "-1"],
        ["follow", "--actors", "a..b"],
        ["actors", "a..b"],
        ["export", "/"],
        ["import", "/no/such/file"],
        ["doctor", "--monitor", "localhost:8222"],
        ["doctor", "--stream", ""],
    ],
)
def test_wrong_usage(command: list[str], options: list[str], store: JetStreamEventStore) -> None:
    store.start()
    at = [] if "--stream" in command else options
    assert run(*command, *at).returncode == 2


@pytest.mark.parametrize("command", [*READING, *WRITING])
@pytest.mark.slow
def test_no_server(command: list[str], nowhere: str) -> None:
    found = run(*command, "--url", nowhere, "--timeout", str(0.5 * UNIT), stdin=line_of(1))
    assert found.returncode == 1
    assert nowhere in found.stderr
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", READING)
def test_what_reads_makes_no_store(command: list[str], options: list[str], store: JetStreamEventStore) -> None:
    found = run(*command, *options)
    assert (found.returncode, found.stdout) == (1, "")
    assert "there is no stream" in found.stderr
    answer = ask(store, f"STREAM.INFO.{names_of(store).stream}")
    assert answer["error"]["err_code"] == ErrorCode.JSStreamNotFoundErr


@pytest.mark.slow
def test_namespaces_are_apart(options: list[str], store: JetStreamEventStore) -> None:
    assert run("append", "order-1", "--namespace", "tenant-a", *options, stdin=line_of(1)).returncode == 0
    assert run("append", "order-1", "--namespace", "tenant-b", *options, stdin=line_of(2)).returncode == 0
    found = run("events", "order-1", "--namespace", "tenant-b", *options)
    assert [line["data"] for line in lines_of(found.stdout)] == [{"n": 2}]
    assert store.actors() == []


@pytest.mark.slow
def test_a_stream_of_another_shape_is_refused(options: list[str], store: JetStreamEventStore) -> None:
    name = names_of(store).stream
    body = {"name": name, "subjects": [names_of(store).all_events], "retention": "interest"}
    ask(store, f"STREAM.CREATE.{name}", body)
    for command in (*READING, *WRITING):
        found = run(*command, *options, stdin=line_of(1))
        assert found.returncode == 1
        assert "events would be removed when they are read" in found.stderr


# -- events


def test_events_prints_an_actors_events(options: list[str], store: JetStreamEventStore) -> None:
    fill(store, events_of(5_000, actors=2))
    found = run("events", "order-1", *options)
    assert (found.returncode, found.stderr) == (0, "")
    lines = lines_of(found.stdout)
    assert [line["version"] for line in lines] == list(range(1, 2_501))
    assert [line["sequence"] for line in lines] == list(range(2, 5_001, 2))
    assert "Zürich" in found.stdout
    some = run("events", "order-1", "--from", "2400", "--to", "2402", *options)
    assert [line["version"] for line in lines_of(some.stdout)] == [2_400, 2_401, 2_402]
    assert run("events", "nobody", *options).stderr == "aether-sync: actor 'nobody' has no such events\n"


@pytest.mark.slow
def test_events_are_taken_by_pub(options: list[str], store: JetStreamEventStore, server: NATSServer) -> None:
    fill(store, events_of(3, actors=1))
    found = run("events", "order-0", *options)
    assert run("pub", "orders", "--url", server.url, stdin=found.stdout).returncode == 0


def test_events_reports_what_is_none(options: list[str], store: JetStreamEventStore) -> None:
    fill(store, events_of(2, actors=1))
    sequence = put_garbage(store, "order-0")
    found = run("events", "order-0", *options)
    assert found.returncode == 1
    assert len(lines_of(found.stdout)) == 2
    assert f"record {sequence} of " in found.stderr
    assert found.stderr.endswith("aether-sync: 1 record is no event\n")


@pytest.mark.parametrize("command", ["events order-0", "follow", "export"])
@pytest.mark.slow
def test_a_reader_that_has_gone(command: str, options: list[str], store: JetStreamEventStore) -> None:
    fill(store, events_of(20_000, actors=1))
    line = f"{shlex.join([*COMMAND, *command.split(), *options])} | head -1"
    found = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        capture_output=True,
        env=environment(),
        timeout=PATIENCE * 3,
        check=False,
    )
    assert found.returncode == 128 + signal.SIGPIPE
    assert found.stdout.count(b"\n") == 1
    assert b"Traceback" not in found.stderr


# -- follow


def test_follow_prints_what_was_and_is_stored(
    start: Callable[..., Running], options: list[str], store: JetStreamEventStore
) -> None:
    fill(store, events_of(10))
    follow = start("follow", "--after", "5", *options)
    follow.wait_for("caught up at sequence 10")
    fill(store, events_of(3, start=10))
    follow.wait_for_lines(8)
    assert follow.end(signal.SIGINT) == 130
    assert [line["sequence"] for line in follow.lines] == list(range(6, 14))
    assert [line["data"]["n"] for line in follow.lines] == list(range(5, 13))  # type: ignore[index]
    assert "aether-sync: following " in follow.err


def test_follow_filters_and_counts(options: list[str], store: JetStreamEventStore) -> None:
    fill(store, events_of(100))
    found = run("follow", "--actors", "order-*", "--type", "Opened", "--count", "5", *options)
    assert found.returncode == 0
    assert [line["data"]["n"] for line in lines_of(found.stdout)] == [0, 3, 6, 9, 12]


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ([], 100),
        (["--type", "Opened"], 34),
        (["--type", "Never"], 0),
        (["--actors", "order-1"], 15),
        (["--actors", "*-3"], 14),
        (["--actors", "x-*"], 0),
    ],
)
@pytest.mark.slow
def test_follow_ends_when_it_has_caught_up(
    options: list[str], store: JetStreamEventStore, filters: list[str], count: int
) -> None:
    fill(store, events_of(100))
    found = run("follow", "--until-caught-up", *filters, *options)
    assert found.returncode == 0
    assert len(lines_of(found.stdout)) == count
    assert "caught up at sequence" in found.stderr


@pytest.mark.slow
def test_follow_of_an_empty_store(options: list[str], store: JetStreamEventStore) -> None:
    store.start()
    assert run("follow", "--until-caught-up", *options).returncode == 0


def test_follow_goes_past_what_is_none(options: list[str], store: JetStreamEventStore) -> None:
    fill(store, events_of(2))
    sequence = put_garbage(store, "customer-1")
    fill(store, events_of(2, start=7))
    found = run("follow", "--until-caught-up", *options)
    assert found.returncode == 1
    assert [line["sequence"] for line in lines_of(found.stdout)] == [1, 2, 4, 5]
    assert f"record {sequence} of " in found.stderr


@pytest.mark.slow
def test_follow_behind_the_end_is_said(options: list[str], store: JetStreamEventStore) -> None:
    fill(store, events_of(2))
    found = run("follow", "--after", "7", "--timeout", str(PATIENCE), *options)
    assert found.returncode == 1
    assert "ends at 2, and was read up to 7" in found.stderr


# -- actors


def test_actors(options: list[str], store: JetStreamEventStore) -> None:
    names = ["order-1", "order-2", "customer-1", "a b", "new\nline", '"quoted"', "Zürich", "bell\x07"]
    fill(store, [Event(event_type="A", actor_id=name, version=1) for name in names])
    found = run("actors", *options)
    assert found.returncode == 0
    lines = found.stdout.splitlines()
    assert [json.loads(line) if line.startswith('"') else line for line in lines] == sorted(names)
    assert "Zürich" in lines
    assert run("actors", "order-*", *options).stdout == "order-1\norder-2\n"
    assert run("actors", "x-*", *options).stdout == ""
