"""``export``: every event as a line, whatever interrupts it."""

import json
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aether_sync import Event, JetStreamEventStore, NATSServer
from aether_sync.cli._export import Exporter
from aether_sync.stores.admin import Extent, StoreAdmin

from ...support.common import PATIENCE, eventually, first_of
from ...support.inside import names_of
from ...support.lines import all_of, events_of, fill, lines_of, put_garbage
from ...support.shell import Running, run
from ...support.stores import put


@pytest.fixture
def other_store(server: NATSServer, prefix: str) -> Iterator[JetStreamEventStore]:
    with JetStreamEventStore(server.url, f"{prefix}-other") as store:
        yield store


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
    said = f"stream {store.stream!r}: exported 2,500 events up to sequence 2,500; the server counts as many"
    assert found.stderr == f"aether-sync: {said}\n"
    assert [line["sequence"] for line in exported(file)] == list(range(1, 2_501))
    found = run("import", str(file), *other)
    assert found.returncode == 0
    said = f"stream {other_store.stream!r}: imported 2,500 events; the store has 2,500 records"
    assert found.stderr == f"aether-sync: {said}\n"
    assert all_of(other_store) == all_of(store)
    again = run("import", str(file), *other)
    assert again.returncode == 0
    assert again.stderr == (
        f"aether-sync: stream {other_store.stream!r}: nothing was imported; 2,500 were there already; "
        "the store has 2,500 records\n"
    )


@pytest.mark.slow
def test_export_to_import(options: list[str], other: list[str], store: JetStreamEventStore) -> None:
    fill(store, events_of(50))
    found = run("export", *options)
    assert found.returncode == 0
    assert run("import", *other, stdin=found.stdout).returncode == 0
    assert run("export", *other).stdout == found.stdout


@pytest.mark.slow
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
@pytest.mark.slow
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


@pytest.mark.parametrize("first", ["b-*", None])
@pytest.mark.parametrize("after", first_of([[], ["--after", "1"]]))
@pytest.mark.slow
def test_an_export_is_not_continued_with_other_actors(
    tmp_path: Path, options: list[str], store: JetStreamEventStore, first: str | None, after: list[str]
) -> None:
    """The file would lack those that were stored before its last line."""
    for version, actor_id in enumerate(("a-1", "b-1", "a-2", "b-2", "a-3"), 1):
        store.save_event(Event(event_type="Happened", actor_id=actor_id, version=version, data={}))
    file = tmp_path / "events"
    begun = run("export", str(file), *after, *(["--actors", first] if first else []), *options)
    assert begun.returncode == 0, begun.stderr
    text = file.read_text()
    found = run("export", str(file), "--actors", "a-*", *after, *options)
    assert found.returncode == 1
    assert "another --actors" in found.stderr
    assert file.read_text() == text
    again = run("export", str(file), *(["--actors", first] if first else []), *after, *options)
    assert again.returncode == 0, again.stderr


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


@pytest.mark.slow
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
        put(store, b"garbage", subject=f"{names_of(store).stream}.events.x.{token}")
    fill(store, events_of(5, start=7))
    found = run("export", *options)
    assert (found.returncode, len(found.stdout.splitlines())) == (1, 10)
    assert "the server counts as many; 3 malformed records left out" in found.stderr
    found = run("export", "--actors", "order-*", *options)
    assert (found.returncode, len(found.stdout.splitlines())) == (0, 10)


@pytest.mark.slow
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
    with JetStreamEventStore(store.connection, f"{names_of(store).stream}-other") as copy:
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
