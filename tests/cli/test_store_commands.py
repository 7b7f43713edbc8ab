"""The command line of the store, as a shell sees it: real processes, a real server, a stream for each test."""

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from aether_sync import AtomicAppendUnsupportedError, Event, JetStreamEventStore, NATSServer
from aether_sync._runtime.deadline import Deadline
from aether_sync.stores._jetstream.error_codes import ErrorCode
from aether_sync.stores._jetstream.messages import Outgoing
from aether_sync.stores._jetstream.stream import settings
from aether_sync.stores.admin import Extent, StoreAdmin

from ..support.common import PATIENCE, UNIT, Monitor, eventually

pytest.importorskip("click")  # the extra `cli`, which the extra `test` brings
pytest.importorskip("rich")

from aether_sync.cli._export import Exporter
from aether_sync.cli._import_there import Alongside

from ..support.shell import COMMAND, Running, environment, interruptible, run, starting, unused_url

Done = subprocess.CompletedProcess[str]
READING = (["events", "order-1"], ["follow"], ["actors"], ["export"])
WRITING = (["append", "order-1"], ["import"])


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts commands, and kills what a test leaves of them."""
    with starting(tmp_path) as start:
        yield start


@pytest.fixture(autouse=True)
def _signals_not_ignored() -> Iterator[None]:
    with interruptible():
        yield


@pytest.fixture
def options(server: NATSServer, prefix: str) -> list[str]:
    """The options that bring a command to the store of the test."""
    return ["--url", server.url, "--stream", prefix]


@pytest.fixture
def other(server: NATSServer, prefix: str) -> list[str]:
    """The options that bring a command to another store."""
    return ["--url", server.url, "--stream", f"{prefix}-other"]


@pytest.fixture
def store(server: NATSServer, prefix: str) -> Iterator[JetStreamEventStore]:
    """The store, beside the command."""
    with JetStreamEventStore(server.url, prefix) as store:
        yield store


@pytest.fixture
def other_store(server: NATSServer, prefix: str) -> Iterator[JetStreamEventStore]:
    with JetStreamEventStore(server.url, f"{prefix}-other") as store:
        yield store


def line_of(n: int, **more: object) -> str:
    return json.dumps({"eventType": "Paid", "data": {"n": n}} | more)


def text_of(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def events_of(count: int, actors: int = 7, start: int = 0) -> list[Event]:
    """Events of several actors, in turns."""
    return [
        Event(
            id=f"id-{n}",
            event_type="Paid" if n % 3 else "Opened",
            actor_id=f"order-{n % actors}",
            version=n // actors + 1,
            data={"n": n, "stadt": "Zürich"},
        )
        for n in range(start, start + count)
    ]


def fill(store: JetStreamEventStore, events: list[Event]) -> list[Event]:
    for place in range(0, len(events), 1_000):
        store.save_events(events[place : place + 1_000], timeout=PATIENCE)
    return events


def put_garbage(store: JetStreamEventStore, actor_id: str = "order-1", data: bytes = b"garbage") -> int:
    """Store a record that is no event; returns its sequence."""
    message = Outgoing(store._names.subject(actor_id), os.urandom(8).hex(), None, data)
    return store._jetstream.publish(store._names.stream, [message], Deadline(PATIENCE)).seq


def all_of(store: JetStreamEventStore) -> list[Event]:
    """All events of a store, in order."""
    last, found = store.last_sequence(), []
    with store.follow() as follower:
        while follower.sequence < last:
            found.append(follower.get(PATIENCE).event)
    return found


def count_of(store: JetStreamEventStore) -> int:
    answer = store._jetstream.request(f"STREAM.INFO.{store._names.stream}", {}, Deadline(PATIENCE))
    return answer["state"]["messages"] if "state" in answer else 0


def make_with(store: JetStreamEventStore, **more: object) -> None:
    """Make the stream as somebody else might, who sets limits."""
    body = settings(store._names, 1) | more
    assert "error" not in store._jetstream.request(f"STREAM.CREATE.{body['name']}", body, Deadline(PATIENCE))


# -- in general


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
def test_no_server(command: list[str]) -> None:
    url = unused_url()
    found = run(*command, "--url", url, "--timeout", str(0.5 * UNIT), stdin=line_of(1))
    assert found.returncode == 1
    assert url in found.stderr
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", READING)
def test_what_reads_makes_no_store(command: list[str], options: list[str], store: JetStreamEventStore) -> None:
    found = run(*command, *options)
    assert (found.returncode, found.stdout) == (1, "")
    assert "there is no stream" in found.stderr
    answer = store._jetstream.request(f"STREAM.INFO.{store._names.stream}", {}, Deadline(PATIENCE))
    assert answer["error"]["err_code"] == ErrorCode.JSStreamNotFoundErr


def test_namespaces_are_apart(options: list[str], store: JetStreamEventStore) -> None:
    assert run("append", "order-1", "--namespace", "tenant-a", *options, stdin=line_of(1)).returncode == 0
    assert run("append", "order-1", "--namespace", "tenant-b", *options, stdin=line_of(2)).returncode == 0
    found = run("events", "order-1", "--namespace", "tenant-b", *options)
    assert [line["data"] for line in lines_of(found.stdout)] == [{"n": 2}]
    assert store.actors() == []


def test_a_stream_of_another_shape_is_refused(options: list[str], store: JetStreamEventStore) -> None:
    name = store._names.stream
    body = {"name": name, "subjects": [store._names.all_events], "retention": "interest"}
    store._jetstream.request(f"STREAM.CREATE.{name}", body, Deadline(PATIENCE))
    for command in (*READING, *WRITING):
        found = run(*command, *options, stdin=line_of(1))
        assert found.returncode == 1
        assert "events would be removed when they are read" in found.stderr


# -- append


def test_append_numbers_and_prints(options: list[str], store: JetStreamEventStore) -> None:
    lines = [line_of(0), "", line_of(1, actorId="order-1", id="mine", metadata={"userId": "ü"})]
    found = run("append", "order-1", *options, stdin=b"\xef\xbb\xbf" + "\n".join(lines).encode())
    assert found.returncode == 0
    assert found.stderr == "aether-sync: stored 2 events of 'order-1', versions 1 to 2\n"
    first, second = lines_of(found.stdout)
    assert (first["sequence"], first["version"], first["data"]) == (1, 1, {"n": 0})
    assert (second["sequence"], second["id"], second["metadata"]) == (2, "mine", {"userId": "ü"})
    assert [event.version for event in store.get_events("order-1")] == [1, 2]
    again = run("append", "order-1", *options, stdin=line_of(2))
    assert again.stderr == "aether-sync: stored 1 event of 'order-1', version 3\n"


def test_append_expects_a_version(options: list[str], store: JetStreamEventStore) -> None:
    text = text_of(line_of(n) for n in range(250))
    assert run("append", "order-1", "--expect", "none", *options, stdin=text).returncode == 0
    found = run("append", "order-1", "--expect", "none", *options, stdin=text)
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == "aether-sync: nothing was stored; 'order-1' is at version 250, and 0 was expected\n"
    found = run("append", "order-1", "--expect", "250", *options, stdin=text)
    assert found.returncode == 0
    assert [event.data for event in store.get_events("order-1")] == [{"n": n % 250} for n in range(500)]  # type: ignore[misc]


def test_append_says_how_far_it_came_when_another_was_faster(
    start: Callable[..., Running], options: list[str], store: JetStreamEventStore
) -> None:
    append = start("append", "order-1", "--expect", "0", *options, stdin=subprocess.PIPE)
    assert append.process.stdin is not None
    append.process.stdin.write(f"{line_of(1)}\n{line_of(2)}\n".encode())
    append.process.stdin.flush()
    append.wait_for_lines(2)
    store.save_event(Event(event_type="Paid", actor_id="order-1", version=3))
    append.process.stdin.write(f"{line_of(3)}\n".encode())
    append.process.stdin.close()
    assert append.end() == 1
    assert append.err == (
        "aether-sync: stored 2 events of 'order-1', versions 1 to 2; 'order-1' is at version 3, and 2 was expected\n"
    )


def test_append_stores_a_line_as_it_comes(
    start: Callable[..., Running], options: list[str], store: JetStreamEventStore
) -> None:
    append = start("append", "order-1", *options, stdin=subprocess.PIPE)
    assert append.process.stdin is not None
    append.process.stdin.write(f"{line_of(1)}\n{line_of(2)[:10]}".encode())
    append.process.stdin.flush()
    append.wait_for_lines(1)
    assert append.end(signal.SIGINT) == 130
    assert append.err == "aether-sync: stored 1 event of 'order-1', version 1; interrupted\n"
    assert len(store.get_events("order-1")) == 1


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("nonsense", "JSON is malformed"),
        (line_of(1, version=3), "it has version 3, and append numbers events"),
        (line_of(1, actorId="order-2"), "it is of actor 'order-2', not 'order-1'"),
        (line_of(1, datas=1), "unknown key 'datas'"),
        ('{"data": {}}', "missing required field `eventType`"),
        (line_of(1, data={"x": "x" * 2**20}), "max_payload"),
    ],
)
def test_append_stops_at_a_bad_line(options: list[str], store: JetStreamEventStore, bad: str, why: str) -> None:
    lines = [line_of(n) for n in range(150)]
    lines[120] = bad
    found = run("append", "order-1", *options, stdin=text_of(lines))
    assert found.returncode == 1
    assert found.stderr.startswith("aether-sync: stored 120 events of 'order-1', versions 1 to 120; line 121 is bad: ")
    assert found.stderr.endswith("; nothing after it was stored: mend the line, or go on past it with --skip-bad\n")
    assert why in found.stderr
    assert [event.data for event in store.get_events("order-1")] == [{"n": n} for n in range(120)]
    skipping = run("append", "order-2", "--skip-bad", *options, stdin=text_of([lines[0], "nonsense", lines[1]]))
    assert skipping.returncode == 1
    assert "stored 2 events of 'order-2', versions 1 to 2; skipped 1 bad line" in skipping.stderr


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([line_of(n) for n in range(1_001)], "more than 1,000 lines"),
        ([*(line_of(n) for n in range(150)), "nonsense"], "line 151 is bad"),
        ([*(line_of(n) for n in range(150)), line_of(1, version=2)], "line 151 is bad"),
        ([line_of(1), line_of(1, data={"x": "x" * 2**20})], "max_payload"),
    ],
)
def test_append_at_once_is_all_or_nothing(
    options: list[str], store: JetStreamEventStore, lines: list[str], why: str
) -> None:
    found = run("append", "order-1", "--atomic", *options, stdin=text_of(lines))
    assert (found.returncode, found.stdout) == (1, "")
    assert "nothing was stored; " in found.stderr
    assert why in found.stderr
    assert store.get_events("order-1") == []


def test_append_at_once(options: list[str], store: JetStreamEventStore) -> None:
    found = run("append", "order-1", "--atomic", *options, stdin=text_of(line_of(n) for n in range(1_000)))
    assert found.returncode == 0
    with store.follow() as follower:
        stored = [follower.get(PATIENCE) for _ in range(1_000)]
    assert [one.sequence for one in stored if one.ends_batch] == [1_000]


def test_append_to_a_stream_without_batches(options: list[str], store: JetStreamEventStore) -> None:
    make_with(store, allow_atomic=False)
    text = text_of(line_of(n) for n in range(5))
    assert run("append", "order-1", "--expect", "none", *options, stdin=text).returncode == 0
    assert [event.data for event in store.get_events("order-1")] == [{"n": n} for n in range(5)]
    found = run("append", "order-1", "--atomic", *options, stdin=text)
    assert found.returncode == 1
    assert "allow_atomic" in found.stderr


def test_append_of_nothing(options: list[str]) -> None:
    found = run("append", "order-1", *options)
    assert (found.returncode, found.stderr) == (0, "aether-sync: nothing was stored\n")


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
def test_follow_ends_when_it_has_caught_up(
    options: list[str], store: JetStreamEventStore, filters: list[str], count: int
) -> None:
    fill(store, events_of(100))
    found = run("follow", "--until-caught-up", *filters, *options)
    assert found.returncode == 0
    assert len(lines_of(found.stdout)) == count
    assert "caught up at sequence" in found.stderr


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


def test_follow_behind_the_end_is_said(options: list[str], store: JetStreamEventStore) -> None:
    fill(store, events_of(2))
    found = run("follow", "--after", "7", "--timeout", str(UNIT), *options)
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


# -- export


def exported(file: Path) -> list[dict[str, Any]]:
    return lines_of(file.read_text())


def test_export_and_import(
    tmp_path: Path,
    options: list[str],
    other: list[str],
    store: JetStreamEventStore,
    other_store: JetStreamEventStore,
) -> None:
    fill(store, events_of(2_500))
    file = tmp_path / "events"
    found = run("export", str(file), *options)
    assert (found.returncode, found.stdout) == (0, "")
    assert found.stderr == "aether-sync: exported 2,500 events up to sequence 2,500; the server counts as many\n"
    assert [line["sequence"] for line in exported(file)] == list(range(1, 2_501))
    found = run("import", str(file), *other)
    assert found.returncode == 0
    assert found.stderr == "aether-sync: imported 2,500 events; the store has 2,500 records\n"
    assert all_of(other_store) == all_of(store)
    again = run("import", str(file), *other)
    assert again.returncode == 0
    assert again.stderr == (
        "aether-sync: nothing was imported; 2,500 were there already; the store has 2,500 records\n"
    )


def test_export_to_import(options: list[str], other: list[str], store: JetStreamEventStore) -> None:
    fill(store, events_of(50))
    found = run("export", *options)
    assert found.returncode == 0
    assert run("import", *other, stdin=found.stdout).returncode == 0
    assert run("export", *other).stdout == found.stdout


def test_export_goes_on_behind_the_last_whole_line(
    tmp_path: Path, options: list[str], store: JetStreamEventStore
) -> None:
    file = tmp_path / "events"
    fill(store, events_of(50))
    assert run("export", str(file), *options).returncode == 0
    whole = file.read_bytes()
    fill(store, events_of(7, start=50))
    for rest in (whole, whole[:-1], whole[:-40], whole[: whole.index(b"\n") + 1], whole[:30], b""):
        file.write_bytes(rest)
        found = run("export", str(file), *options)
        assert found.returncode == 0, found.stderr
        assert "the server counts as many" in found.stderr
        assert ("cut off the half line" in found.stderr) == (not rest.endswith(b"\n") and rest != b"")
        assert file.read_bytes().startswith(whole)
        assert [line["sequence"] for line in exported(file)] == list(range(1, 58))
    found = run("export", str(file), *options)
    assert found.returncode == 0
    assert "nothing was exported; 57 events with those that were there; the server counts as many" in found.stderr


def test_a_half_line_is_cut_off_though_nothing_follows(
    tmp_path: Path, options: list[str], store: JetStreamEventStore
) -> None:
    file = tmp_path / "events"
    fill(store, events_of(50))
    run("export", str(file), *options)
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"sequence":51,"id":"' + b"x" * 2**21)
    assert run("export", str(file), *options).returncode == 0
    assert file.read_bytes() == whole


@pytest.mark.fault
def test_export_after_a_kill(
    tmp_path: Path, start: Callable[..., Running], options: list[str], store: JetStreamEventStore
) -> None:
    fill(store, events_of(40_000))
    file = tmp_path / "events"
    export = start("export", str(file), *options)
    eventually(lambda: file.exists() and file.stat().st_size > 100_000, "some lines")
    export.process.kill()
    export.process.wait()
    assert file.read_bytes().count(b"\n") < 40_000
    assert run("export", str(file), *options).returncode == 0
    assert [line["sequence"] for line in exported(file)] == list(range(1, 40_001))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hello\n", "is no export"),
        ("hello", "is no export"),
        ('{"eventType": "A"}\n', "no sequence and id"),
        ('{"sequence": 1, "id": "other"}\n', "is of another store"),
        ('{"sequence": 9, "id": "id-8"}\n', "is of another store"),
        ('{"sequence": 3, "id": "id-2"}\n{"sequence": 3, "id": "id-2"}\n', "do not increase"),
    ],
)
def test_export_leaves_other_files_alone(
    tmp_path: Path, options: list[str], store: JetStreamEventStore, text: str, why: str
) -> None:
    fill(store, events_of(5))
    file = tmp_path / "events"
    file.write_text(text)
    found = run("export", str(file), *options)
    assert found.returncode == 1
    assert why in found.stderr
    assert file.read_text() == text


def test_export_finds_a_line_that_is_missing(tmp_path: Path, options: list[str], store: JetStreamEventStore) -> None:
    fill(store, events_of(5))
    file = tmp_path / "events"
    run("export", str(file), *options)
    first, _, *others = file.read_text().splitlines(keepends=True)
    file.write_text(first + "".join(others))
    found = run("export", str(file), *options)
    assert found.returncode == 1
    assert "the server counts 5 records up to sequence 5, and 4 are in the file" in found.stderr


def test_only_one_export_writes_to_a_file(
    tmp_path: Path, start: Callable[..., Running], options: list[str], store: JetStreamEventStore
) -> None:
    fill(store, events_of(60_000))
    file = tmp_path / "events"
    export = start("export", str(file), *options)
    eventually(lambda: file.exists() and file.stat().st_size > 10_000, "some lines")
    export.process.send_signal(signal.SIGSTOP)
    found = run("export", str(file), *options)
    export.process.send_signal(signal.SIGCONT)
    assert found.returncode == 1
    assert "another export writes to" in found.stderr
    assert export.end() == 0
    assert [line["sequence"] for line in exported(file)] == list(range(1, 60_001))


@pytest.mark.parametrize(
    ("filters", "sequences", "said"),
    [
        (["--after", "90"], range(91, 101), "the server counts as many"),
        (["--actors", "order-3"], range(4, 101, 7), "the server counts as many"),
        (["--actors", "*-3"], range(4, 101, 7), "the server counts as many"),
        (["--actors", "order-3", "--after", "90"], [95], "nothing to count them against"),
        (["--actors", "x-*"], [], "the server counts as many"),
        (["--after", "100"], [], "the server counts as many"),
    ],
)
def test_export_of_some(
    options: list[str], store: JetStreamEventStore, filters: list[str], sequences: Iterable[int], said: str
) -> None:
    fill(store, events_of(100))
    found = run("export", *filters, *options)
    assert found.returncode == 0
    assert [line["sequence"] for line in lines_of(found.stdout)] == list(sequences)
    assert said in found.stderr


def test_export_behind_the_end_is_said(tmp_path: Path, options: list[str], store: JetStreamEventStore) -> None:
    fill(store, events_of(2))
    found = run("export", "--after", "7", *options)
    assert found.returncode == 1
    assert "the store ends at sequence 2, and --after is 7" in found.stderr


def test_export_of_an_empty_store(options: list[str], store: JetStreamEventStore) -> None:
    store.start()
    found = run("export", *options)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize("place", ["middle", "end"])
def test_export_reports_what_is_none(
    tmp_path: Path, options: list[str], store: JetStreamEventStore, place: str
) -> None:
    file = tmp_path / "events"
    fill(store, events_of(5))
    sequence = put_garbage(store, "customer-1")
    if place == "middle":
        fill(store, events_of(5, start=7))
    found = run("export", str(file), *options)
    assert found.returncode == 1
    assert f"record {sequence} of " in found.stderr
    assert "the server counts as many; 1 malformed record left out" in found.stderr
    fill(store, events_of(5, start=14))
    found = run("export", str(file), *options)  # which goes on, and finds that the file has not all there is
    assert found.returncode == 1
    assert ("or were left out when it was begun" in found.stderr) == (place == "middle")
    assert run("export", "--actors", "order-*", *options).returncode == 0  # it is of another actor


def test_a_record_under_a_subject_of_no_actor_holds_nothing_up(options: list[str], store: JetStreamEventStore) -> None:
    fill(store, events_of(5))
    for token in ("%ZZ", "%FF", "a.b.c"):
        message = Outgoing(f"{store._names.stream}.events.x.{token}", os.urandom(8).hex(), None, b"garbage")
        store._jetstream.publish(store._names.stream, [message], Deadline(PATIENCE))
    fill(store, events_of(5, start=7))
    found = run("export", *options)
    assert (found.returncode, len(found.stdout.splitlines())) == (1, 10)
    assert "the server counts as many; 3 malformed records left out" in found.stderr
    found = run("export", "--actors", "order-*", *options)
    assert (found.returncode, len(found.stdout.splitlines())) == (0, 10)


def test_an_event_that_is_nested_deeper_than_ours_holds_nothing_up(
    tmp_path: Path, options: list[str], other: list[str], store: JetStreamEventStore
) -> None:
    """Others may store it, it is read, and so it is printed and exported. To store it here is refused, by its line."""
    fill(store, events_of(5))
    deep = (
        b'{"id":"deep","eventType":"A","actorId":"go-1","version":1,"data":{"a":%b},"timestamp":"2026-01-01T00:00:00Z"}'
    )
    put_garbage(store, "go-1", deep % (b"[" * 250 + b"]" * 250))
    events = fill(store, events_of(5, start=5))
    file = tmp_path / "events"
    for _ in range(2):
        found = run("export", str(file), *options)
        assert found.returncode == 0
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert [line["sequence"] for line in lines] == list(range(1, 12))
        assert lines[5]["data"] == store.get_events("go-1")[0].data
    assert run("events", "go-1", *options).returncode == 0
    assert len(run("follow", "--until-caught-up", *options).stdout.splitlines()) == 11
    found = run("import", str(file), *other)
    assert found.returncode == 1
    assert re.search("imported 5 events; .*line 6 is bad: .{1,200} is nested more than 200 levels deep", found.stderr)
    assert run("import", "--skip-bad", str(file), *other).returncode == 1
    with JetStreamEventStore(store.connection, f"{store._names.stream}-other") as copy:
        assert all_of(copy)[5:] == events


def test_export_ends_with_a_batch(tmp_path: Path, store: JetStreamEventStore) -> None:
    """What was stored when it began may end within a batch that was just being stored."""
    for start in (0, 50, 100):
        store.save_events(events_of(50, start=start))
    file = tmp_path / "events"
    with file.open("wb") as out:
        exporter = Exporter(store, StoreAdmin(store), out, None, 0, Extent(70, 70, 70), 0, PATIENCE)
        assert exporter.run(Uninterrupted())
    assert [line["sequence"] for line in exported(file)] == list(range(1, 101))


class Uninterrupted:
    @contextmanager
    def whole(self) -> Iterator[None]:
        yield


# -- import


def write_lines(file: Path, events: Iterable[Event]) -> None:
    from aether_sync._codec.encoding import encode_event

    file.write_bytes(b"".join(encode_event(event) + b"\n" for event in events))


@pytest.mark.fault
def test_import_after_a_kill(
    tmp_path: Path, start: Callable[..., Running], options: list[str], store: JetStreamEventStore
) -> None:
    file, events = tmp_path / "events", events_of(60_000, actors=500)
    write_lines(file, events)
    running = start("import", str(file), *options)
    eventually(lambda: count_of(store) > 1_000, "some events")
    running.process.kill()
    running.process.wait()
    eventually(lambda: count_of(store) % 1_000 == 0, "the end of a batch that is just being stored")
    there = count_of(store)
    assert there < 60_000
    found = run("import", str(file), *options)
    assert found.returncode == 0
    assert found.stderr == (
        f"aether-sync: imported {60_000 - there:,} events; {there:,} were there already; the store has 60,000 records\n"
    )
    assert all_of(store) == events


def test_import_says_when_it_is_interrupted(
    start: Callable[..., Running], options: list[str], store: JetStreamEventStore, tmp_path: Path
) -> None:
    file = tmp_path / "events"
    write_lines(file, events_of(1_500))
    running = start("import", *options, stdin=subprocess.PIPE)
    assert running.process.stdin is not None
    running.process.stdin.write(file.read_bytes())
    running.process.stdin.flush()
    eventually(lambda: count_of(store) == 1_000, "the first batch")
    assert running.end(signal.SIGINT) == 130
    assert running.err == "aether-sync: imported 1,000 events; the store has 1,000 records; interrupted\n"


def test_import_beside_what_is_there(tmp_path: Path, options: list[str], store: JetStreamEventStore) -> None:
    """Others' events before, between and behind those of the file, which come in another order."""
    file, events = tmp_path / "events", events_of(3_000)
    write_lines(file, events)
    others = [Event(event_type="A", actor_id=f"other-{n}", version=1) for n in range(3)]
    fill(store, others[:1])
    fill(store, sorted(events[:1_500], key=lambda event: event.actor_id))
    fill(store, others[1:])
    found = run("import", str(file), *options)
    assert found.returncode == 0
    assert found.stderr == (
        "aether-sync: imported 1,500 events; 1,500 were there already; the store has 3,003 records\n"
    )
    for actor in range(7):
        name = f"order-{actor}"
        assert store.get_events(name) == [event for event in events if event.actor_id == name]


def test_import_of_the_same_twice_in_a_file(tmp_path: Path, options: list[str], store: JetStreamEventStore) -> None:
    file, events = tmp_path / "events", events_of(300)
    write_lines(file, events + events)
    found = run("import", str(file), *options)
    assert found.returncode == 0
    assert "imported 300 events; 300 were there already" in found.stderr
    assert all_of(store) == events


def test_import_knows_what_it_has_stored_itself(tmp_path: Path, options: list[str], store: JetStreamEventStore) -> None:
    """Of an actor that was looked up for one batch, got an event by the next, and has it again in the third."""
    file = tmp_path / "events"
    there = Event(event_type="A", actor_id="there-1", version=1)
    first, second = (Event(event_type="A", actor_id="twice-1", version=n) for n in (1, 2))
    fillers = iter([Event(event_type="A", actor_id=f"filler-{n}", version=1) for n in range(2_000)])
    batches = [[first, there, *islice(fillers, 998)], [second, *islice(fillers, 999)], [second, next(fillers)]]
    write_lines(file, [event for batch in batches for event in batch])
    fill(store, [there])
    found = run("import", str(file), *options)
    assert found.returncode == 0
    assert "imported 2,000 events; 2 were there already" in found.stderr


def test_import_reads_the_store_alongside(store: JetStreamEventStore) -> None:
    events = events_of(3_000)
    fill(store, [Event(event_type="A", actor_id="other-1", version=1), *events[:1_000]])
    put_garbage(store, "customer-1")
    fill(store, [Event(event_type="A", actor_id="other-2", version=1), *events[1_000:2_000]])
    alongside = Alongside(store, StoreAdmin(store), PATIENCE)
    try:
        assert all(alongside.has(event) for event in events[:2_000])
        assert not alongside.has(events[2_000])
    finally:
        alongside.close()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"id": "another"}, "actor 'order-3' has another event of version 1"),
        ({"data": {"n": "another"}}, "actor 'order-3' has another event of version 1"),
    ],
)
def test_import_stops_at_a_conflict(
    tmp_path: Path, options: list[str], store: JetStreamEventStore, change: dict[str, Any], why: str
) -> None:
    file, events = tmp_path / "events", events_of(20)
    write_lines(file, events)
    fill(store, [events[3].replace(**change)])
    found = run("import", str(file), *options)
    assert found.returncode == 1
    assert f"line 4: {why}" in found.stderr
    assert count_of(store) == 1


def test_import_does_not_put_an_event_behind_a_later_one(
    tmp_path: Path, options: list[str], store: JetStreamEventStore
) -> None:
    file, events = tmp_path / "events", events_of(20)
    write_lines(file, events)
    fill(store, [events[3].replace(version=2)])
    found = run("import", str(file), *options)
    assert found.returncode == 1
    assert "line 4: actor 'order-3' is at version 2, so version 1 can be stored no more" in found.stderr


@pytest.mark.parametrize("bad", ["nonsense", '{"eventType": "A", "actorId": "a-1"}'])
def test_import_stops_at_a_bad_line(options: list[str], store: JetStreamEventStore, bad: str) -> None:
    lines = [json.dumps({"eventType": "A", "actorId": "a-1", "version": n + 1}) for n in range(40)]
    lines[30] = bad
    found = run("import", *options, stdin=text_of(lines))
    assert found.returncode == 1
    assert "imported 30 events; the store has 30 records; line 31 is bad: " in found.stderr
    assert found.stderr.endswith("; nothing after it was stored: mend the line, or go on past it with --skip-bad\n")
    lines[29] = json.dumps({"eventType": "A", "actorId": "a-2", "version": 1, "data": {"x": "x" * 2**20}})
    lines = [line.replace("a-1", "a-3") for line in lines]
    found = run("import", "--skip-bad", *options, stdin=text_of(lines))
    assert found.returncode == 1
    assert "imported 38 events; the store has 68 records; skipped 2 bad lines" in found.stderr


def test_import_to_a_stream_without_batches(tmp_path: Path, options: list[str], store: JetStreamEventStore) -> None:
    make_with(store, allow_atomic=False)
    file, events = tmp_path / "events", events_of(50)
    write_lines(file, events)
    fill_one_by_one = [store.save_event(event) for event in events[:10]]
    found = run("import", str(file), *options)
    assert found.returncode == 0
    assert len(fill_one_by_one) == 10
    assert "imported 40 events; 10 were there already" in found.stderr
    assert all_of(store) == events


def test_import_to_a_server_that_takes_fewer_at_once(tmp_path: Path) -> None:
    file, events = tmp_path / "events", events_of(700)
    write_lines(file, events)
    config = "jetstream: { limits: { batch: { max_msgs: 100 } } }"
    with NATSServer(config=config) as server, JetStreamEventStore(server.url) as store:
        found = run("import", str(file), "--url", server.url)
        assert found.returncode == 0
        assert "imported 700 events; the store has 700 records" in found.stderr
        assert all_of(store) == events
        with pytest.raises(AtomicAppendUnsupportedError, match=r"too large: 100 .*max_msgs"):
            store.save_events(events_of(101, start=700))
        lines = text_of(line_of(n) for n in range(250))
        found = run("append", "account-1", "--url", server.url, stdin=lines)
        assert found.returncode == 0
        found = run("append", "account-2", "--atomic", "--url", server.url, stdin=lines)
        assert found.returncode == 1
        assert "nothing was stored; so many events at once are too many for the server" in found.stderr


def test_import_to_a_stream_that_takes_smaller_events(
    tmp_path: Path, options: list[str], store: JetStreamEventStore
) -> None:
    """In the middle of a batch the server has no way to say so: it is known before."""
    make_with(store, max_msg_size=2_000)
    file, events = tmp_path / "events", events_of(100)
    large = events[50] = events[50].replace(data={"x": "x" * 3_000})
    write_lines(file, events)
    found = run("import", str(file), *options)
    assert found.returncode == 1
    assert "imported 50 events; " in found.stderr
    assert re.search("line 51 is bad: .* larger than the max_msg_size of stream .* which is 2000", found.stderr)
    found = run("import", "--skip-bad", str(file), *options)
    assert found.returncode == 1
    assert "imported 49 events; 50 were there already" in found.stderr
    assert all_of(store) == [event for event in events if event is not large]


def test_import_to_a_stream_that_is_full_says_what_is_to_be_done(
    tmp_path: Path, options: list[str], store: JetStreamEventStore
) -> None:
    make_with(store, max_msgs=1_500)
    file, events = tmp_path / "events", events_of(2_500)
    write_lines(file, events)
    found = run("import", str(file), *options)
    assert found.returncode == 1
    assert re.search("imported 1,000 events; .*maximum messages.*when that is mended, or over, the same", found.stderr)
    answer = store._jetstream.request(
        f"STREAM.UPDATE.{store._names.stream}", settings(store._names, 1), Deadline(PATIENCE)
    )
    assert "error" not in answer
    assert run("import", str(file), *options).returncode == 0
    assert all_of(store) == events


@pytest.mark.parametrize("command", ["export", "import"])
def test_progress_is_shown_on_a_terminal(
    tmp_path: Path, options: list[str], other: list[str], store: JetStreamEventStore, command: str
) -> None:
    file = tmp_path / "events"
    fill(store, events_of(3_000))
    if command == "import":
        assert run("export", str(file), *options).returncode == 0
    ours, its = pty.openpty()
    shown = bytearray()

    def read() -> None:
        try:
            while chunk := os.read(ours, 1024):
                shown.extend(chunk)
        except OSError:  # so a terminal ends
            pass

    reader = threading.Thread(target=read)
    reader.start()
    arguments = [*COMMAND, command, str(file), *(options if command == "export" else other)]
    try:
        status = subprocess.run(
            arguments, stderr=its, stdin=subprocess.DEVNULL, env=environment(TERM="xterm"), check=False
        ).returncode
    finally:
        os.close(its)
        reader.join()
        os.close(ours)
    assert status == 0
    assert b"100%" in shown
    assert b"3,000 events" in shown


# -- doctor


def findings(*args: str) -> tuple[int, dict[str, dict[str, str]]]:
    found: Done = run("doctor", "--json", *args)
    return found.returncode, {line["topic"]: line for line in lines_of(found.stdout)}


def test_doctor_of_a_store(options: list[str], store: JetStreamEventStore, monitor: Monitor) -> None:
    fill(store, events_of(10))
    status, found = findings("--monitor", f"http://127.0.0.1:{monitor.port}", *options)
    assert status == 0
    assert all(one["level"] == "ok" or one["topic"] == "sync to disk" for one in found.values()), found
    assert "10 records of 7 actors" in found["stream"]["message"]
    assert "every 120 s" in found["sync to disk"]["message"]
    assert found["clock"]["message"].startswith("within 0.0")
    plain = run("doctor", *options)
    assert plain.returncode == 0
    assert re.search(r"^ok    server: nats-server \d", plain.stdout, re.M)
    assert re.search(r"^warn  sync to disk: not seen.*\n      give --monitor", plain.stdout, re.M)


class Unwell(BaseHTTPRequestHandler):
    """What a monitoring port answers of a server that could not write (``/healthz`` of nats-server 2.15)."""

    def do_GET(self) -> None:
        is_health = self.path == "/healthz"
        self.send_response(503 if is_health else 200)
        self.end_headers()
        self.wfile.write(b'{"status":"unavailable","error":"no space left on device"}' if is_health else b"{}")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_doctor_of_a_server_whose_disk_is_full(options: list[str]) -> None:
    with HTTPServer(("127.0.0.1", 0), Unwell) as port:
        thread = threading.Thread(target=port.serve_forever)
        thread.start()
        status, found = findings("--monitor", f"http://127.0.0.1:{port.server_port}", *options)
        port.shutdown()
        thread.join()
    assert status == 1
    assert found["health"]["message"] == "no space left on device"
    assert "restart" in found["health"]["advice"]


def test_doctor_of_no_store_yet(options: list[str], store: JetStreamEventStore) -> None:
    status, found = findings(*options)
    assert status == 0
    assert found["stream"]["level"] == "ok"
    assert "there is no stream" in found["stream"]["message"]
    answer = store._jetstream.request(f"STREAM.INFO.{store._names.stream}", {}, Deadline(PATIENCE))
    assert answer["error"]["err_code"] == ErrorCode.JSStreamNotFoundErr


def test_doctor_of_a_stream_that_is_no_store(options: list[str], store: JetStreamEventStore) -> None:
    body = {"name": store._names.stream, "subjects": [store._names.all_events], "max_bytes": 10_000}
    store._jetstream.request(f"STREAM.CREATE.{store._names.stream}", body, Deadline(PATIENCE))
    found = run("doctor", *options)
    assert found.returncode == 1
    assert found.stdout.count("bad   settings: ") > 2
    assert "ok    limits: max_bytes is 0% full" in found.stdout


def test_doctor_without_jetstream_or_a_server() -> None:
    accounts = "accounts { A: { users: [{user: u, password: p}] } }"
    with NATSServer(config=accounts) as server:
        status, found = findings("--url", server.url.replace("//", "//u:p@"), "--timeout", str(UNIT))
    assert status == 1
    assert found["jetstream"]["level"] == "bad"
    assert "stream" not in found
    status, found = findings("--url", unused_url(), "--timeout", str(UNIT))
    assert status == 1
    assert found["connection"]["level"] == "bad"


def test_doctor_without_permissions(prefix: str) -> None:
    allowed = '{user: u, password: p, permissions: {publish: ["$JS.API.INFO"]}}'
    with NATSServer(config=f"authorization {{users: [{allowed}]}}") as server:
        status, found = findings("--url", server.url.replace("//", "//u:p@"), "--stream", prefix)
    assert status == 1
    assert found["stream"]["level"] == "bad"
    assert "$JS.API.STREAM.INFO" in found["stream"]["message"]
