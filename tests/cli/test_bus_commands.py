"""The command line, as a shell sees it: real processes, real signals, a real server."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from aether_sync import Event, NATSEventBus, NATSServer, __version__
from aether_sync.cli.demo.audit import audit, naive_match
from aether_sync.cli.demo.plan import Kind, Reading, ReadingReport, Report
from aether_sync.patterns import Pattern

from ..support.common import PATIENCE, UNIT, eventually, make_event
from ..support.shell import COMMAND, Running, environment, run, terminal


@pytest.fixture
def options(server: NATSServer, prefix: str) -> list[str]:
    """The options that bring a command to the server of the tests."""
    return ["--url", server.url, "--prefix", prefix]


@pytest.fixture
def bus(server: NATSServer, prefix: str) -> Iterator[NATSEventBus]:
    """A node beside the command."""
    with NATSEventBus(server.url, prefix=prefix) as bus:
        yield bus


# -- in general


@pytest.mark.slow
def test_help_for_a_newcomer() -> None:
    found = run("--help")
    assert found.returncode == 0
    for command in ("demo", "sub", "pub", "server"):
        assert re.search(rf"^  {command} ", found.stdout, re.M)
        own = run(command, "--help")
        assert own.returncode == 0
        assert max(map(len, own.stdout.splitlines())) <= 80


def test_version() -> None:
    found = run("--version")
    assert (found.returncode, found.stdout) == (0, f"aether-sync {__version__}\n")


def test_wrong_usage() -> None:
    assert run("sub").returncode == 2
    assert run("pub", "orders", "/no/such/file").returncode == 2
    assert run("demo", "--seconds", "0").returncode == 2


@pytest.mark.parametrize("name", ["click", "rich"])
def test_without_the_extra_it_says_what_to_install(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError(name={name!r})")
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    found = run("demo", PYTHONPATH=path)
    assert found.returncode == 1
    assert found.stderr == f"aether-sync: the command line needs {name}: install the extra 'cli' of aether-sync\n"


@pytest.mark.parametrize("command", [["sub", "orders"], ["pub", "orders"], ["demo"]])
def test_no_server(command: list[str], nowhere: str) -> None:
    found = run(*command, "--url", nowhere, "--timeout", str(0.5 * UNIT), stdin='{"eventType": "A", "actorId": "a"}\n')
    assert found.returncode == 1
    message = found.stderr.splitlines()[-1]
    assert message.startswith("aether-sync: ")
    assert nowhere in message
    assert len(found.stderr.splitlines()) == 1


def test_a_bad_pattern_is_said_without_a_server(nowhere: str) -> None:
    found = run("sub", "a..b", "--url", nowhere)
    assert found.returncode == 2
    assert "'a..b' has an empty token" in found.stderr


# -- sub


def test_sub_prints_events_as_lines(start: Callable[..., Running], bus: NATSEventBus, options: list[str]) -> None:
    sub = start("sub", "orders.*", "orders.>", "--count", "2", *options)
    sub.wait_for("subscribed")
    event = Event(
        event_type="Placed",
        actor_id="Bestellung-ä",
        data={"stadt": "Zürich", "国": "日本"},
        version=7,
        command_id="c",
        metadata={"userId": "u"},
    )
    bus.publish_many("orders.eu", [event, make_event(1), make_event(2)])
    assert sub.end() == 0
    assert "Zürich" in sub.out
    assert "日本" in sub.out
    first, second = sub.lines
    assert first == {
        "namespace": "orders.eu",
        "id": event.id,
        "eventType": "Placed",
        "actorId": "Bestellung-ä",
        "commandId": "c",
        "version": 7,
        "data": {"stadt": "Zürich", "国": "日本"},
        "metadata": {"userId": "u"},
        "timestamp": event.timestamp.isoformat().replace("+00:00", "Z"),
    }
    assert second["data"] == {"n": 1}
    assert "dropped" not in sub.err


def test_sub_filters(start: Callable[..., Running], bus: NATSEventBus, options: list[str]) -> None:
    sub = start("sub", ">", "--type", "A", "--type", "B", "--actor", "order-*", "--count", "2", *options)
    sub.wait_for("subscribed")
    for event_type in ("A", "C", "B"):
        for actor_id in ("order-1", "customer-1"):
            bus.publish("x.y", make_event(event_type=event_type, actor_id=actor_id))
    assert sub.end() == 0
    assert [(line["eventType"], line["actorId"]) for line in sub.lines] == [("A", "order-1"), ("B", "order-1")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_sub_ends_quietly_at_a_signal(
    start: Callable[..., Running], bus: NATSEventBus, options: list[str], number: int
) -> None:
    sub = start("sub", "orders", *options)
    sub.wait_for("subscribed")
    bus.publish("orders", make_event(1))
    sub.wait_for_lines(1)
    assert sub.end(number) == 128 + number
    assert sub.err == "aether-sync: subscribed to 'orders'; Ctrl-C ends\n"


def test_sub_ends_quietly_when_its_reader_has_gone(tmp_path: Path, bus: NATSEventBus, options: list[str]) -> None:
    err = tmp_path / "err"
    command = f"{shlex.join([*COMMAND, 'sub', 'orders', *options])} 2> {shlex.quote(str(err))} | head -1"
    shell = subprocess.Popen(
        ["bash", "-o", "pipefail", "-c", command], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment()
    )
    with shell:
        eventually(lambda: err.exists() and "subscribed" in err.read_text(), "the subscription")

        def published_in_vain() -> bool:
            bus.publish("orders", make_event(1))
            return shell.poll() is not None

        eventually(published_in_vain, "the end of the pipeline")
        assert shell.stdout is not None
        assert len(shell.stdout.read().splitlines()) == 1
    assert shell.returncode == 128 + signal.SIGPIPE
    assert err.read_text() == "aether-sync: subscribed to 'orders'; Ctrl-C ends\n"


def test_sub_shares_with_its_group(start: Callable[..., Running], bus: NATSEventBus, options: list[str]) -> None:
    members = [start("sub", "jobs", "--group", "workers", *options) for _ in range(2)]
    for member in members:
        member.wait_for("subscribed")
    bus.publish_many("jobs", [make_event(n) for n in range(200)])
    eventually(lambda: sum(member.out.count("\n") for member in members) >= 200, "all events")
    assert [member.end(signal.SIGINT) for member in members] == [130, 130]
    assert all(member.lines for member in members)
    got = [line["data"]["n"] for member in members for line in member.lines]  # type: ignore[index]
    assert sorted(got) == list(range(200))


def test_sub_reports_drops(tmp_path: Path, bus: NATSEventBus, options: list[str]) -> None:
    err = tmp_path / "err"
    with err.open("wb") as to:
        sub = subprocess.Popen(
            [*COMMAND, "sub", "orders", *options],
            stdout=subprocess.PIPE,
            stderr=to,
            stdin=subprocess.DEVNULL,
            env=environment(),
        )
    with sub:
        eventually(lambda: "subscribed" in err.read_text(), "the subscription")
        events = [make_event(n) for n in range(10_000)]
        for _ in range(10):  # nobody reads what it prints, and it queues 65,536
            bus.publish_many("orders", events)
        bus.flush(PATIENCE)
        eventually(lambda: len(err.read_text().splitlines()) > 1, "the first drop")
        sub.send_signal(signal.SIGINT)
        assert sub.stdout is not None
        sub.stdout.read()
    assert sub.returncode == 130
    assert re.search(r"^aether-sync: [\d,]+ events dropped", err.read_text(), re.M)
    assert "Traceback" not in err.read_text()


# -- pub


def line_of(n: int, **more: object) -> str:
    return json.dumps({"eventType": "Placed", "actorId": f"order-{n}", "data": {"n": n}} | more)


def received(bus: NATSEventBus, count: int, publish: Callable[[], object]) -> list[Event]:
    """What arrives of what a command publishes; fails if it is more or less."""
    with bus.subscribe(">") as events:
        publish()
        got = [events.get(timeout=PATIENCE) for _ in range(count)]
        bus.subscribe("barrier").close()  # the server sent what it had before
        assert events.get_batch(1, timeout=0) == []
    return got


def test_pub_publishes_a_file(tmp_path: Path, bus: NATSEventBus, options: list[str]) -> None:
    file = tmp_path / "events"
    whole = {
        "id": "i",
        "version": 3,
        "commandId": "c",
        "metadata": {"userId": "ü"},
        "timestamp": "2025-01-31T12:00:00Z",
    }
    snake = json.dumps({"event_type": "Paid", "actor_id": "order-3", "command_id": "d"})
    file.write_bytes(b"\xef\xbb\xbf" + "\n".join([line_of(1), "", "  \r", line_of(2, **whole), snake]).encode())
    found: list[subprocess.CompletedProcess[str]] = []
    first, second, third = received(bus, 3, lambda: found.append(run("pub", "orders.eu", str(file), *options)))
    assert (found[0].returncode, found[0].stdout) == (0, "")
    assert found[0].stderr == "aether-sync: sent 3 events, confirmed\n"
    assert (first.namespace, first.event_type, first.actor_id, first.data) == (
        "orders.eu",
        "Placed",
        "order-1",
        {"n": 1},
    )
    assert (second.id, second.version, second.command_id, second.user_id) == ("i", 3, "c", "ü")
    assert second.timestamp.isoformat() == "2025-01-31T12:00:00+00:00"
    assert (third.event_type, third.actor_id, third.command_id) == ("Paid", "order-3", "d")


def test_pub_takes_back_what_sub_prints(start: Callable[..., Running], bus: NATSEventBus, options: list[str]) -> None:
    sub = start("sub", "orders", "--count", "3", *options)
    sub.wait_for("subscribed")
    events = [make_event(n, metadata={"userId": "é"}, command_id="c", version=n) for n in range(3)]
    bus.publish_many("orders", events)
    assert sub.end() == 0
    assert received(bus, 3, lambda: run("pub", "again", "-", *options, stdin=sub.out)) == events


def test_pub_sends_a_line_as_it_comes(start: Callable[..., Running], bus: NATSEventBus, options: list[str]) -> None:
    with bus.subscribe("orders") as events:
        pub = start("pub", "orders", *options, stdin=subprocess.PIPE)
        assert pub.process.stdin is not None
        pub.process.stdin.write(f"{line_of(1)}\n{line_of(2)}\n{line_of(3)[:10]}".encode())
        pub.process.stdin.flush()
        assert [events.get(timeout=PATIENCE).data for _ in range(2)] == [{"n": 1}, {"n": 2}]
        assert pub.end(signal.SIGINT) == 130
    assert pub.err == "aether-sync: sent 2 events, confirmed; interrupted\n"


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"nonsense", "JSON is malformed"),
        (b'{"eventType": "A"', "truncated"),
        (b"[1]", "Expected `object`"),
        (b'{"eventType": "A"}', "missing required field `actorId`"),
        (b'{"eventType": "", "actorId": "a"}', "`$.eventType`"),
        (b'{"eventType": "A", "actorId": "a", "datas": {}}', "unknown key 'datas'"),
        (b'{"eventType": "A", "event_type": "B", "actorId": "a"}', "'eventType' is there twice"),
        (b'{"eventType": "A", "actorId": "a", "timestamp": "now"}', "RFC 3339"),
        (b'{"eventType": "A", "actorId": "\xff"}', "not UTF-8"),
        (json.dumps({"eventType": "A", "actorId": "a", "data": {"x": "x" * 2**20}}).encode(), "max_payload"),
    ],
)
def test_pub_stops_at_a_bad_line(bus: NATSEventBus, options: list[str], bad: bytes, why: str) -> None:
    lines = [line_of(n).encode() for n in range(50)]
    lines[41] = bad
    found: list[subprocess.CompletedProcess[str]] = []
    events = received(bus, 41, lambda: found.append(run("pub", "orders", *options, stdin=b"\n".join(lines))))
    assert [event.data for event in events] == [{"n": n} for n in range(41)]
    assert found[0].returncode == 1
    assert found[0].stderr.startswith("aether-sync: sent 41 events, confirmed; line 42 is bad: ")
    assert found[0].stderr.endswith("; nothing after it was sent\n")
    assert why in found[0].stderr


def test_pub_skips_bad_lines(bus: NATSEventBus, options: list[str]) -> None:
    too_large = line_of(0, data={"x": "x" * 2**20})
    lines = [line_of(1), "nonsense", line_of(2), too_large, line_of(3), *["bad"] * 30, line_of(4)]
    found: list[subprocess.CompletedProcess[str]] = []
    publish = lambda: found.append(run("pub", "orders", "--skip-bad", *options, stdin="\n".join(lines)))  # noqa: E731
    assert [event.data for event in received(bus, 4, publish)] == [{"n": n} for n in range(1, 5)]
    assert found[0].returncode == 1
    *reports, more, summary = found[0].stderr.splitlines()
    assert [int(re.search(r"line (\d+) is bad", report)[1]) for report in reports] == [2, 4, *range(6, 24)]  # type: ignore[index]
    assert more == "aether-sync: more bad lines are only counted"
    assert summary == "aether-sync: sent 4 events, confirmed; skipped 32 bad lines"


def test_pub_of_nothing(options: list[str]) -> None:
    found = run("pub", "orders", *options)
    assert (found.returncode, found.stderr) == (0, "aether-sync: nothing was sent\n")


def test_pub_refuses_a_wildcard(options: list[str]) -> None:
    found = run("pub", "orders.*", *options, stdin=line_of(1))
    assert found.returncode == 2
    assert "'orders.*' has a wildcard" in found.stderr


def test_pub_says_when_the_server_goes_away(start: Callable[..., Running], own_server: NATSServer, prefix: str) -> None:
    url, options = own_server.url, ["--prefix", prefix, "--timeout", str(UNIT)]
    with NATSEventBus(url, prefix=prefix) as bus, bus.subscribe("orders") as events:
        pub = start("pub", "orders", "--url", url, *options, stdin=subprocess.PIPE)
        assert pub.process.stdin is not None
        pub.process.stdin.write(f"{line_of(1)}\n".encode())
        pub.process.stdin.flush()
        events.get(timeout=PATIENCE)
        own_server.stop()
        bus.connection.close(timeout=0)
    pub.wait_for("not connected")
    pub.process.stdin.write(f"{line_of(2)}\n".encode())
    pub.process.stdin.close()
    assert pub.end() == 1
    assert "published 2 events, but 1 event not confirmed" in pub.err


@pytest.mark.slow
def test_pub_says_what_the_server_refused(prefix: str) -> None:
    allowed = f'{{user: u, password: p, permissions: {{publish: ["{prefix}.events.mine"]}}}}'
    with NATSServer(config=f"authorization {{users: [{allowed}]}}") as server:
        options = ["--url", server.url.replace("//", "//u:p@"), "--prefix", prefix]
        assert run("pub", "mine", *options, stdin=line_of(1)).returncode == 0
        found = run("pub", "other", *options, stdin=line_of(1))
        assert found.returncode == 1
        assert re.search("published 1 event, but .*refused", found.stderr)
        wrong = run("pub", "mine", "--url", server.url.replace("//", "//u:secret@"), stdin=line_of(1))
        assert wrong.returncode == 1
        assert "refuses these credentials" in wrong.stderr
        assert "secret" not in wrong.stderr


def test_pub_shows_its_progress_on_a_terminal(tmp_path: Path, options: list[str]) -> None:
    file = tmp_path / "events"
    file.write_text("".join(f"{line_of(n)}\n" for n in range(5_000)))
    command = [*COMMAND, "pub", "orders", str(file), *options]
    with terminal() as (its, shown):
        done = subprocess.run(command, stderr=its, stdin=subprocess.DEVNULL, env=environment(TERM="xterm"), check=False)
    assert done.returncode == 0
    assert b"100% 5,000 events" in re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", shown)
    assert shown.rstrip().endswith(b"aether-sync: sent 5,000 events, confirmed")


# -- server


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_server_runs_until_it_is_told_to_stop(start: Callable[..., Running], tmp_path: Path, number: int) -> None:
    running = start("server", "--port", "0", "--store-dir", str(tmp_path / "store"))
    running.wait_for("nats://")
    found = re.search(r"nats://\S+", running.out)
    assert found is not None
    with NATSEventBus(found[0]) as bus, bus.subscribe("x") as events:
        bus.publish("x", make_event(1))
        events.get(timeout=PATIENCE)
    assert running.end(number) == 0
    assert not listens(found[0])


def test_server_says_that_the_port_is_in_use(server: NATSServer) -> None:
    found = run("server", "--port", str(urlsplit(server.url).port))
    assert found.returncode == 1
    assert re.fullmatch(r"aether-sync: port \d+ is in use: choose another one with --port\n", found.stderr)


@pytest.mark.slow
def test_server_says_that_it_ended_by_itself(start: Callable[..., Running]) -> None:
    running = start("server", "--port", "0")
    running.wait_for("nats://")
    children = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,args="], capture_output=True, text=True, check=True
    ).stdout
    port = str(urlsplit(running.out.strip()).port)
    (pid,) = [int(line.split()[0]) for line in children.splitlines() if f" -p {port} " in line and "-I" not in line]
    os.kill(pid, signal.SIGKILL)
    assert running.end() == 1
    assert running.err == "aether-sync: the server has ended\n"


@pytest.mark.parametrize("command", ["server", "demo"])
@pytest.mark.slow
def test_without_a_server_binary_it_says_what_to_install(tmp_path: Path, command: str) -> None:
    patch = "import aether_sync.server.process as s\ns._candidates = lambda: iter(())\n"
    (tmp_path / "sitecustomize.py").write_text(patch)
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    found = run(command, PYTHONPATH=path)
    assert found.returncode == 1
    assert "install the extra 'server' of aether-sync" in found.stderr
    assert len(found.stderr.splitlines()) == 1


def listens(url: str) -> bool:
    parts = urlsplit(url)
    with closing(socket.socket()) as probe:
        return probe.connect_ex((parts.hostname, parts.port)) == 0


# -- demo


def table_of(out: str) -> list[tuple[str, str, list[int | None], str]]:
    """Read the final table: node, subscription, the five numbers, and the verdict of each row."""
    rows = re.findall(
        r"^(node-\d|all) +(.+?) +([\d,-]+) +([\d,-]+) +([\d,-]+) +([\d,-]+) +([\d,-]+) (ok|NO)\s*$", out, re.M
    )
    return [
        (node, name, [None if number == "-" else int(number.replace(",", "")) for number in numbers], verdict)
        for node, name, *numbers, verdict in rows
    ]


@pytest.mark.slow
def test_demo_adds_up() -> None:
    of_another_server = {
        "NATS_TOKEN": "t",
        "NATS_CA": "/no/such",
        "NATS_CONTEXT": "no-such",
        "NATS_URL": "nats://no-such",
    }
    found = run("demo", "--seconds", "1", **of_another_server)  # it has a server of its own
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stderr == ""
    rows = table_of(found.stdout)
    assert len(rows) == 16
    published = sum(numbers[0] or 0 for _, _, numbers, _ in rows)
    assert published > 0
    assert f"It adds up: {published:,} events" in found.stdout
    for _, name, (_, expected, got, dropped, _), verdict in rows:
        assert verdict == "ok"
        if expected is not None:
            assert got is not None
            assert dropped is not None
            assert expected == got + dropped
            assert (dropped > 0) == ("slow" in name)
    members = sum(got or 0 for _, name, (_, _, got, _, _), _ in rows if name == "jobs (group workers)")
    assert [members] == [got for node, _, (_, _, got, _, _), _ in rows if node == "all"]
    url = re.search(r"nats://\S+:\d+", found.stdout)
    assert url is not None
    assert not listens(url[0])


@pytest.mark.slow
def test_demo_on_a_running_server(server: NATSServer) -> None:
    found = run("demo", "--seconds", "0.5", "--rate", "50", "--url", server.url)
    assert found.returncode == 0, found.stdout + found.stderr
    assert listens(server.url)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["A nats-server", "have subscribed"])
def test_demo_leaves_nothing_after_ctrl_c(start: Callable[..., Running], when: str) -> None:
    demo = start("demo", "--seconds", "60")
    demo.wait_for(when)
    os.killpg(demo.process.pid, signal.SIGINT)  # as a terminal does
    assert demo.end() == 130
    assert demo.err == ""
    found = re.search(r"nats://\S+:\d+", demo.out)
    assert found is not None
    assert not listens(found[0])
    eventually(lambda: not group_lives(demo.process.pid), "the end of all its processes")


def group_lives(group: int) -> bool:
    """Whether a process of a group runs; one that only its parent has not looked after yet does not."""
    states = subprocess.run(["ps", "-A", "-ww", "-o", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    return any(int(pgid) == group and not state.startswith("Z") for pgid, state in map(str.split, states.splitlines()))


# -- what the demo counts: it fails when anything is tampered with

ORDERS: Kind = ("shop.eu.orders", "Paid", "order-1")
JOBS: Kind = ("jobs", "Paid", "order-1")
PLAIN = Reading(patterns=("shop.>",))
SLOW = Reading(patterns=("shop.>",), slow=True)
MEMBER = Reading(patterns=("jobs",), group="workers")
PLAN = ((PLAIN, MEMBER), (SLOW, MEMBER))


def ids(*numbers: int) -> frozenset[tuple[str, int]]:
    return frozenset(("node-1/0", n) for n in numbers)


def reports() -> list[Report]:
    """Two nodes in order: ten orders and four jobs published by the first."""
    return [
        Report(
            published={ORDERS: 10, JOBS: 4},
            accepted=14,
            readings=(
                ReadingReport(received=10, dropped=0, kinds={ORDERS: 10}),
                ReadingReport(received=3, dropped=0, kinds={JOBS: 3}, ids=ids(0, 1, 2)),
            ),
        ),
        Report(
            published={ORDERS: 1},
            accepted=1,
            readings=(
                ReadingReport(received=4, dropped=7, kinds={ORDERS: 4}),
                ReadingReport(received=1, dropped=0, kinds={JOBS: 1}, ids=ids(3)),
            ),
        ),
    ]


def tampered(node: int, place: int | None = None, **changes: object) -> list[str]:
    """The faults after a change to one node's report, or to one of its readings."""
    found = reports()
    found[0] = replace(
        found[0], readings=(replace(found[0].readings[0], received=11, kinds={ORDERS: 11}), found[0].readings[1])
    )
    if place is None:
        found[node] = replace(found[node], **changes)  # type: ignore[arg-type]
    else:
        readings = list(found[node].readings)
        readings[place] = replace(readings[place], **changes)  # type: ignore[arg-type]
        found[node] = replace(found[node], readings=tuple(readings))
    return audit(PLAN, found).faults


def test_audit_of_what_adds_up() -> None:
    assert tampered(0) == []


def test_audit_expects_what_was_published_anywhere() -> None:
    assert audit(PLAN, reports()).faults == ["node-1 shop.>: expected 11, but received 10 + dropped 0: 1 missing"]


@pytest.mark.parametrize(
    ("node", "place", "changes", "fault"),
    [
        (0, 0, {"received": 10, "kinds": {ORDERS: 10}}, "node-1 shop.>: .*1 missing"),
        (0, 0, {"received": 12, "kinds": {ORDERS: 12}, "duplicates": 1}, "node-1 shop.>: 1 received twice"),
        (0, 0, {"received": 12, "kinds": {ORDERS: 12}}, "node-1 shop.>: .*1 too many"),
        (0, 0, {"duplicates": 1}, "node-1 shop.>: 1 received twice"),
        (0, 0, {"disordered": 2}, "node-1 shop.>: 2 received out of order"),
        (0, 0, {"kinds": {ORDERS: 10, JOBS: 1}}, "node-1 shop.>: .*did not ask for"),
        (0, 0, {"kinds": {ORDERS: 12}}, "node-1 shop.>: .*of which 11 were published"),
        (1, 0, {"dropped": 6}, r"node-2 shop.> \(slow\): .*1 missing"),
        (1, 0, {"received": 11, "dropped": 0, "kinds": {ORDERS: 11}}, r"node-2 shop.> \(slow\): .*dropped none"),
        (0, 1, {"ids": ids(0, 1, 3)}, "all group workers: jobs: .*3 different"),
        (0, 1, {"received": 2, "ids": ids(0, 1)}, "all group workers: jobs: .*1 missing"),
        (0, None, {"accepted": 13}, "node-1 publishes .*the bus counts 13"),
        (1, None, {"published": {}, "accepted": 0}, "node-2 publishes .*published nothing"),
    ],
)
def test_audit_finds(node: int, place: int | None, changes: dict[str, object], fault: str) -> None:
    faults = tampered(node, place, **changes)
    assert any(re.match(fault, one) for one in faults), faults


@pytest.mark.parametrize(
    "pattern", ["a", "a.b", "*", "a.*", "*.b", ">", "a.>", "a.*.>", "a-*", "a-*.b", "*-x.*", "a.b.c"]
)
def test_naive_matching_agrees_with_the_library(pattern: str) -> None:
    names = ["a", "b", "a.b", "a.c", "b.b", "a.b.c", "a.b.c.d", "a-1", "a-1.b", "a-x.b", "a-.b.c"]
    parsed = Pattern.parse(pattern)
    assert Counter(filter(parsed.matches, names)) == Counter(name for name in names if naive_match(pattern, name))
