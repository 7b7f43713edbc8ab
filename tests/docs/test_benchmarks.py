"""The benchmarks run, whole and quickly: what they write is looked at, never how fast anything was."""

import fcntl
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from benchmarks import environment, postgres
from benchmarks.__main__ import main
from benchmarks.against import slower
from benchmarks.cases import Job
from benchmarks.every import CASES, chosen
from benchmarks.report import Ratio, Report, Row, Spread
from benchmarks.stock import (
    FEW,
    FEW_SMALL,
    MANY,
    MANY_SMALL,
    ROWS,
    SMALL,
    Stock,
    actor_name,
    make_stored,
    make_unstored,
)
from benchmarks.workload import encode

_ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(900)  # some hundred processes one after the other, on a busy machine


def benchmarks(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, "-m", "benchmarks", "--quick", *map(str, arguments)]
    return subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=800)


class Outcome:
    """A quick run of everything, which all processes of a test run share."""

    def __init__(self, folder: Path) -> None:
        self.json, self.svg = folder / "report.json", folder / "figures.svg"
        text, progress = folder / "text", folder / "progress"
        if not progress.exists():
            done = benchmarks("--json", self.json, "--svg", self.svg)
            assert done.returncode == 0, done.stderr
            text.write_text(done.stdout)
            progress.write_text(done.stderr)
        self.text, self.progress = text.read_text(), progress.read_text()
        self.report = msgspec.json.decode(self.json.read_bytes(), type=Report)

    @property
    def rows(self) -> dict[str, Row]:
        return {row.case: row for table in self.report.tables for row in table.rows}


@pytest.fixture(scope="module", params=[pytest.param("a quick run", marks=pytest.mark.slow)])
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "benchmarks"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return Outcome(folder)


def test_every_case_has_figures_or_a_reason(outcome: Outcome) -> None:
    assert set(outcome.rows) == set(CASES)
    for name, row in outcome.rows.items():
        if row.left_out:
            assert CASES[name].needs, f"{name}: {row.left_out}"
            assert not row.figures
        else:
            assert set(row.figures) == set(CASES[name].question.keys)
            assert all(spread.low <= spread.median <= spread.high for spread in row.figures.values())
            assert row.samples


def test_what_can_be_compared_is_compared_and_goals_are_judged(outcome: Outcome) -> None:
    rows = outcome.rows
    for name, row in rows.items():
        base = CASES[name].base
        if base != name and row.figures:
            assert row.ratios[0].to == (base,)
        for ratio in row.ratios:
            assert (ratio.goal is None) == (ratio.is_reached is None)
    assert [ratio.goal for ratio in rows["roundtrip-aether"].ratios] == [1.4, 2.0]
    assert rows["roundtrip-aether"].ratios[1].key == "p99"


@pytest.mark.parametrize("place", ["r1", "r3"])
@pytest.mark.parametrize(
    ("name", "goal"),
    [("append", 1.15), ("threads", 2.0), ("load-10", 2.0), ("load-1000", 1.2), ("follow", 2.0), ("batch", None)],
)
def test_the_store_is_measured_on_one_server_and_on_three(
    outcome: Outcome, name: str, goal: float | None, place: str
) -> None:
    ours = outcome.rows[f"{name}-aether-{place}"]
    assert ours.ratios[0].to == (f"{name}-nats-py-{place}",)
    assert goal in [ratio.goal for ratio in ours.ratios]
    for database in ("sqlite", "postgres"):
        assert CASES[f"{name}-eventsourcing-{database}"].base == f"{name}-nats-py-r1"


@pytest.mark.parametrize(
    ("name", "bound", "to"),
    [
        ("load-10-aether-r1", 0.5, "load-10-socket-r1"),
        ("load-1000-aether-r3", 0.5, "load-1000-socket-r3"),
        ("load-1000-aether-r1", 1.0, "load-1000-eventsourcing-postgres"),
        ("latest-last-aether-r1", 3.0, "latest-version-aether-r1"),
        ("latest-reverse-aether-r1", 3.0, "latest-version-aether-r1"),
        ("latest-10-aether-r1", 2.0, "latest-version-aether-r1"),
        ("latest-1000-aether-r1", 8.0, "latest-version-aether-r1"),
        ("size-load10-aether-r1", 1.5, "size-load10-small-aether-r1"),
        ("size-load1000-aether-r1", 1.5, "size-load1000-small-aether-r1"),
    ],
)
def test_loads_have_their_goals(name: str, bound: float, to: str) -> None:
    one = CASES[name]
    assert (bound, to) in [(goal.bound, (goal.to or (one.base,))[0]) for goal in one.goals]


def test_a_group_is_chosen_whole_and_by_itself() -> None:
    bus, store = ({case.name for case in chosen([group])} for group in ("bus", "store"))
    assert bus | store == set(CASES)
    assert not bus & store
    assert {case.question.group for case in chosen(["follow-aether-r3"])} == {"store"}


def test_the_page_of_figures_names_what_there_is() -> None:
    page = (_ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"--only (\w+)", page)) - {"NAME"}
    assert all(chosen([name]) for name in named)
    assert named >= {case.question.name for case in CASES.values()}
    for link in re.findall(r"\]\(([^)#]+)\)", page):
        assert (_ROOT / "benchmarks" / link).exists()


@pytest.mark.parametrize("stock", [MANY, FEW])
def test_a_stock_has_every_event_once_and_in_order(stock: Stock) -> None:
    job = Job("", "", "", 1, stock=2_000)
    turns = [[actor for actor, _ in turn] for turn in stock.rounds(job)]
    assert all(len(set(turn)) == len(turn) for turn in turns)
    assert any(turn != turns[0] for turn in turns)
    events = [one for turn in stock.rounds(job) for one in turn]
    assert len(set(events)) == len(events) == job.stock
    for actor in {actor for actor, _ in events}:
        assert [version for other, version in events if other == actor] == list(range(1, stock.each + 1))


@pytest.mark.parametrize("stock", [MANY, FEW, ROWS])
def test_a_stock_knows_where_the_events_of_an_actor_are(stock: Stock) -> None:
    job = Job("", "", "", 1, stock=2_000)
    stored = [actor_name(actor) for turn in stock.rounds(job) for actor, _ in turn]
    for actor_id, sequences in stock.sequences(job, stock.chosen(job, 2)).items():
        assert len(sequences) == stock.each
        assert {stored[sequence - 1] for sequence in sequences} == {actor_id}


def test_a_small_stock_does_not_grow() -> None:
    job = Job("", "", "", 1, stock=2_000_000)
    assert (MANY.events(job), FEW.actors(job)) == (2_000_000, 2_000)
    assert (MANY_SMALL.events(job), FEW_SMALL.actors(job)) == (SMALL, 200)
    assert job.patience > Job("", "", "", 1).patience


@pytest.mark.parametrize(
    ("arguments", "compares"),
    [
        ([], False),
        (["--only", "store"], False),
        (["--only", "store", "--events", "2000000"], True),
        (["--only", "size"], True),
        (["--only", "size-start-aether-r1"], True),
        (["--quick"], True),
    ],
)
def test_stores_of_two_sizes_are_compared_if_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], compares: bool
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--list", *arguments])
    assert main() == 0
    assert ("size-start-aether-r1" in capsys.readouterr().out) is compares


def test_actors_are_chosen_alike_and_none_twice_while_there_are_others() -> None:
    job = Job("", "", "", 1, stock=2_000)
    assert MANY.chosen(job, 150) == MANY.chosen(job, 150)
    assert len(set(MANY.chosen(job, 150))) == 150
    assert set(Counter(FEW.chosen(job, 4)).values()) == {2}


def test_an_event_of_a_store_has_300_bytes_and_is_the_same_for_all() -> None:
    stored, unstored = make_stored(7, 12), make_unstored(7, 12)
    assert 290 <= len(encode(stored)) <= 310
    for name in ("event_type", "actor_id", "version", "data"):
        assert getattr(stored, name) == getattr(unstored, name)


def test_a_database_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "find_program", lambda name: None)
    assert environment.lacking(("postgres",)) == "postgres is not installed: install Debian's postgresql"


@pytest.mark.slow
@pytest.mark.skipif(environment.find_program("postgres") is None, reason="Debian's postgresql is not installed")
def test_a_database_ends_with_its_block() -> None:
    with postgres.running() as port:
        address = ("127.0.0.1", int(port))
        socket.create_connection(address).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_the_environment_is_recorded_and_printed(outcome: Outcome) -> None:
    environment = outcome.report.environment
    for name in ("date", "python", "platform", "cpus", "load at start", "nats-server", "nats-py", "msgspec", "janus"):
        assert environment[name] not in ("", "not installed")
        assert environment[name] in outcome.text


def test_the_tables_have_all_cases_with_their_reasons(outcome: Outcome) -> None:
    for row in outcome.rows.values():
        assert f"| {row.title}" in outcome.text
        assert row.left_out is None or row.left_out in outcome.text
    assert "reached" in outcome.text
    assert "s left" in outcome.progress


def test_the_chart_is_well_formed_and_has_every_bar(outcome: Outcome) -> None:
    root = ElementTree.parse(outcome.svg).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = {"".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {row.title.replace("`", "") for row in outcome.rows.values() if row.figures} <= texts


def changed(report: Report, factor: float) -> Report:
    """The same run with all ratios of ours so much higher."""

    def change(ratio: Ratio) -> Ratio:
        value = Spread(*(number * factor for number in msgspec.structs.astuple(ratio.value)))
        return msgspec.structs.replace(ratio, value=value)

    tables = [
        msgspec.structs.replace(
            table,
            rows=tuple(
                msgspec.structs.replace(row, ratios=tuple(map(change, row.ratios)) if row.is_ours else row.ratios)
                for row in table.rows
            ),
        )
        for table in report.tables
    ]
    return msgspec.structs.replace(report, tables=tuple(tables))


def test_what_got_slower_is_told_in_both_directions(outcome: Outcome) -> None:
    report = outcome.report
    assert not list(slower(report, report))
    was_higher = {line.partition(":")[0] for line in slower(report, changed(report, 2.0))}
    was_lower = {line.partition(":")[0] for line in slower(report, changed(report, 0.5))}
    assert "receive-aether" in was_higher - was_lower
    assert "roundtrip-aether" in was_lower - was_higher
    assert not list(slower(report, changed(report, 1.04)))  # that is no news


def test_what_the_spread_explains_is_not_slower(outcome: Outcome) -> None:
    def widened(ratio: Ratio) -> Ratio:
        value = Spread(ratio.value.median * 2, ratio.value.low * 0.9, ratio.value.high * 3)
        return msgspec.structs.replace(ratio, value=value)

    earlier = [
        msgspec.structs.replace(
            table,
            rows=tuple(msgspec.structs.replace(row, ratios=tuple(map(widened, row.ratios))) for row in table.rows),
        )
        for table in outcome.report.tables
    ]
    assert not list(slower(outcome.report, msgspec.structs.replace(outcome.report, tables=tuple(earlier))))


@pytest.mark.parametrize(("factor", "status"), [(1000.0, 0), (0.001, 1)])
def test_the_command_fails_if_something_got_slower(
    outcome: Outcome, tmp_path: Path, factor: float, status: int
) -> None:
    earlier = tmp_path / "earlier.json"
    earlier.write_bytes(msgspec.json.encode(msgspec.structs.replace(changed(outcome.report, factor), repeat=3)))
    chosen = ("--only", "memory-aether-subscription", "--json", "-", "--against", earlier)
    assert "no spread" in benchmarks(*chosen).stderr
    done = benchmarks(*chosen, "--repeat", "3")
    assert done.returncode == status, done.stderr
    assert ("slower: memory-aether-subscription" in done.stderr) == bool(status)
    report = msgspec.json.decode(done.stdout, type=Report)
    assert [row.case for row in report.tables[0].rows] == ["memory-queue", "memory-aether-subscription"]


@pytest.mark.slow
def test_a_file_that_is_no_report_and_an_unknown_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "no.json").write_text("{}")
    refused = benchmarks("--against", tmp_path / "no.json")
    assert refused.returncode == 2
    assert "is no report" in refused.stderr
    assert "no such case" in benchmarks("--only", "nothing").stderr
