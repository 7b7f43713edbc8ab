"""The oldest versions that setup.cfg allows: what depends on a package most is run with that one, over both paths."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.common import UNIT
from ..support.installs import ROOT, Environment, extras, oldest, python, required

pytestmark = [pytest.mark.slow, pytest.mark.index]

#: Extras of the command line, of the event loop, of credentials. The server's is chosen by whoever runs one.
EXTRAS = ("cli", "fast", "nkeys")

#: By what is run with the oldest versions, and whether it runs on uvloop's event loop.
TESTS = {
    "0": [
        "bus/test_nats_bus.py",
        "unit/test_fast_reader.py",
        "unit/test_client.py",
        "unit/test_queue.py",
        "unit/test_decoding.py",
        "unit/test_encoding.py",
        "bus/test_async_iteration.py",
        "bus/test_permissions.py",
        "bus/test_security.py",
        "store/test_jetstream_store.py",
        "cli",
    ],
    "1": ["unit/test_uvloop.py", "unit/test_loop_thread.py", "bus/test_bus.py", "process/test_fork.py"],
}

#: Prints the version of each distribution that is named, as the program sees it.
VERSIONS = "import json, sys, importlib.metadata as m; print(json.dumps([m.version(one) for one in sys.argv[1:]]))"


def pinned() -> list[str]:
    return oldest([*required(), *(one for extra in EXTRAS for one in extras()[extra])])


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the oldest versions, to stand before all others on the path."""
    folder = tmp_path_factory.mktemp("oldest")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
    subprocess.run([*pip, *pinned()], check=True, timeout=120 * UNIT)
    return folder


def test_each_package_that_is_required_has_an_oldest_version() -> None:
    named = {one.partition("==")[0] for one in pinned()}
    assert named >= {"nats-py", "janus", "msgspec", "uvloop", "click", "rich", "nkeys"}


@pytest.mark.timeout(700 * UNIT)
@pytest.mark.parametrize("uvloop", TESTS)
def test_with_the_oldest_versions(packages: Path, uvloop: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(packages), "AETHER_SYNC_UVLOOP": uvloop}
    names, versions = zip(*(one.split("==") for one in pinned()), strict=True)
    seen = json.loads(subprocess.check_output([sys.executable, "-c", VERSIONS, *names], env=env))
    assert [_number(one) for one in seen] == [_number(one) for one in versions]
    assert seen != [importlib.metadata.version(name) for name in names], "these are the newest"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", "-n", "2"),
            *(f"tests/{test}" for test in TESTS[uvloop]),
        ],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600 * UNIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def _number(version: str) -> tuple[int, ...]:
    """Return a version without zeros at its end: 2.10 is 2.10.0."""
    numbers = [int(one) for one in version.split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


@pytest.mark.timeout(300 * UNIT)
def test_the_oldest_versions_go_together(tmp_path: Path) -> None:
    base = python(".".join(map(str, sys.version_info[:2])))
    assert base is not None
    environment = Environment(tmp_path / "venv", base)
    environment.pip("install", "--quiet", *pinned())
    environment.pip("check")
