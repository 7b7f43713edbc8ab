"""``append``: lines become events of an actor."""

import signal
import subprocess
from collections.abc import Callable

import pytest

from aether_sync import Event, JetStreamEventStore

from ...support.common import PATIENCE
from ...support.lines import line_of, lines_of, make_with, text_of
from ...support.shell import Running, run


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
@pytest.mark.slow
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
