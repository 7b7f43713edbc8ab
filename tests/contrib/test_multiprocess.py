"""Prometheus in programs that fork: files that all processes share."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from aether_sync import NATSServer

from ..programs import exports
from ..programs.run import run
from ..support.common import PATIENCE, first_of


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the processes of a program share their metrics."""
    path = tmp_path / "metrics"
    path.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(path))
    return path


@pytest.mark.parametrize(
    "program",
    [
        exports.forked,
        exports.killed,
        exports.pool,
        exports.collected,
        exports.fork_while_a_file_grows,
        pytest.param(exports.unregistered, marks=pytest.mark.slow),
        pytest.param(exports.idle, marks=pytest.mark.slow),
        pytest.param(exports.served, marks=pytest.mark.slow),
        pytest.param(exports.many_forks, marks=[pytest.mark.slow, pytest.mark.concurrent]),
    ],
    ids=lambda program: program.__name__,
)
@pytest.mark.slow
def test_processes_are_added_up(program: Callable[[], None]) -> None:
    run(program, within=PATIENCE * 3)


def test_the_last_flush_is_counted(server: NATSServer, prefix: str, folder: Path) -> None:
    run(exports.unclosed, server.url, prefix, within=PATIENCE * 3, says="unclosed <Connection")
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))
    for name in "bus_published", "connection_confirmed":
        samples = [one for family in registry.collect() for one in family.samples]
        (found,) = [one.value for one in samples if one.name == f"aether_sync_{name}_total"]
        assert found == 30_000, name
    assert not list(folder.glob("gauge_*"))


@pytest.fixture
def own_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A directory to which every user would come."""
    with TemporaryDirectory() as path:
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", path)
        yield path


def test_a_directory_of_another_user_is_refused(own_folder: str) -> None:
    lines = run(exports.refused, within=PATIENCE * 3, says="").splitlines()
    to = ["write", "read", "read"]
    for line, what in zip(lines, to, strict=True):
        assert f"PROMETHEUS_MULTIPROC_DIR is '{own_folder}'" in line
        assert f"may not {what} there: give the directory to the user" in line


@pytest.mark.slow
def test_a_process_that_cannot_share_fails_scrapes(own_folder: str) -> None:
    output = run(exports.locked_out, within=PATIENCE * 3, says="the metrics cannot be written to")
    reasons = [line for line in output.splitlines() if f"{own_folder}, cannot be shown: PermissionError" in line]
    assert [line[:4] for line in reasons] == ["503 "] * 3


@pytest.mark.slow
def test_a_directory_that_is_removed_at_the_end(own_folder: str) -> None:
    run(exports.removed_at_the_end, within=PATIENCE * 3)


@pytest.mark.parametrize("what", first_of(["*", "*.db"]))
@pytest.mark.slow
def test_the_directory_is_emptied_while_processes_live(what: str) -> None:
    run(exports.emptied, what, within=PATIENCE * 3)


@pytest.mark.parametrize("what", first_of(["gauge_livesum_*.db", "counter_*.db", "histogram_*.db"]))
def test_some_files_of_a_living_process_are_removed(what: str) -> None:
    run(exports.partly_removed, what, within=PATIENCE * 3)


@pytest.mark.slow
def test_a_directory_that_is_gone(folder: Path) -> None:
    output = run(exports.lost_folder, within=PATIENCE * 3, says="the metrics cannot be written to")
    assert f"PROMETHEUS_MULTIPROC_DIR is '{folder}'"[:30] in output
    assert "make it before the program starts" in output
    assert not os.path.exists(folder)
