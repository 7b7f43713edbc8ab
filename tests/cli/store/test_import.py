"""``import``: every line becomes an event, once."""

import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from aether_sync import AtomicAppendUnsupportedError, Event, JetStreamEventStore, NATSServer
from aether_sync.cli._import_there import Alongside
from aether_sync.stores._jetstream.stream import settings
from aether_sync.stores.admin import StoreAdmin

from ...support.common import PATIENCE, eventually
from ...support.inside import names_of
from ...support.lines import all_of, events_of, fill, line_of, make_with, put_garbage, text_of
from ...support.shell import COMMAND, Running, environment, run, terminal
from ...support.stores import ask


def count_of(store: JetStreamEventStore) -> int:
    answer = ask(store, f"STREAM.INFO.{names_of(store).stream}")
    return answer["state"]["messages"] if "state" in answer else 0


def write_lines(file: Path, events: Iterable[Event]) -> None:
    from aether_sync._codec.encoding import encode_event

    file.write_bytes(b"".join(encode_event(event) + b"\n" for event in events))


@pytest.mark.slow
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
        f"aether-sync: stream {store.stream!r}: imported {60_000 - there:,} events; {there:,} were there already; "
        "the store has 60,000 records\n"
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
    said = f"aether-sync: stream {store.stream!r}: imported 1,000 events; the store has 1,000 records; interrupted\n"
    assert running.err == said


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
        f"aether-sync: stream {store.stream!r}: imported 1,500 events; 1,500 were there already; "
        "the store has 3,003 records\n"
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


def test_import_stores_nothing_after_what_it_stops_at(
    tmp_path: Path, options: list[str], store: JetStreamEventStore
) -> None:
    """The lines of the next batch are read by then, and later ones may be bad, too."""
    file, events = tmp_path / "events", events_of(3_500)
    large = events[1_200].replace(data={"x": "x" * 2**20})
    write_lines(file, [*events[:1_200], large, *events[1_201:]])
    with file.open("ab") as lines:
        lines.write(b"nonsense\n")
    found = run("import", str(file), *options)
    assert found.returncode == 1
    assert "the store has 1,200 records; line 1201 is bad" in found.stderr
    assert all_of(store) == events[:1_200]
    fill(store, [events[1_200].replace(data={"another": 1})])
    write_lines(file, events)
    found = run("import", str(file), *options)
    assert found.returncode == 1
    assert "line 1201: " in found.stderr
    assert count_of(store) == 1_201


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
    answer = ask(store, f"STREAM.UPDATE.{names_of(store).stream}", settings(names_of(store), 1))
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
    arguments = [*COMMAND, command, str(file), *(options if command == "export" else other)]
    with terminal() as (its, shown):
        done = subprocess.run(
            arguments, stderr=its, stdin=subprocess.DEVNULL, env=environment(TERM="xterm"), check=False
        )
    assert done.returncode == 0
    assert b"100%" in shown
    assert b"3,000 events" in shown
