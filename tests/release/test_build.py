"""The wheel and the sdist: whole, the same whenever they are built, and enough to build and test the library."""

import email
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import aether_sync

from ..support.common import UNIT
from ..support.installs import ROOT, SUPPORTED, Environment, checkout, extras, files_of, python
from .conftest import Built, build

pytestmark = [pytest.mark.slow, pytest.mark.index, pytest.mark.timeout(900 * UNIT)]

#: Files of a checkout that only git needs.
OF_GIT = {".gitignore"}

#: A part of the tests for each part of the library: the bus and the store with a server, forks and the exit, the shell.
REPRESENTATIVE = [
    "tests/unit/test_events.py",
    "tests/unit/test_decoding.py",
    "tests/unit/test_loop_thread.py",
    "tests/unit/test_queue.py",
    "tests/unit/test_reporter.py",
    "tests/unit/test_rooms.py",
    "tests/bus/test_bus.py",
    "tests/bus/test_nats_bus.py",
    "tests/bus/test_async_iteration.py",
    "tests/store/test_memory_store.py",
    "tests/store/test_jetstream_store.py",
    "tests/store/test_consume.py",
    "tests/process/test_exit.py",
    "tests/process/test_fork.py",
    "tests/cli/test_bus_commands.py",
    "tests/cli/test_guide.py",
]


def unpack(sdist: Path, folder: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (inside,) = folder.iterdir()
    return inside


def test_two_builds_are_the_same_to_the_byte(built: Built, tmp_path: Path) -> None:
    source = checkout(tmp_path / "source")
    for path in source.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    again = build(source, tmp_path / "dist", umask=0o077)
    assert again.wheel.name == built.wheel.name
    assert again.wheel.read_bytes() == built.wheel.read_bytes()
    assert again.sdist.read_bytes() == built.sdist.read_bytes()


def test_the_wheel_has_every_file_of_the_package(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    package = {f"aether_sync/{name}" for name in files_of(ROOT / "aether_sync")}
    assert names == package | {"pytest_aether_sync.py"}


def test_the_sdist_has_every_file_of_the_checkout(built: Built, tmp_path: Path) -> None:
    there = files_of(checkout(tmp_path / "checkout"))
    inside = files_of(unpack(built.sdist, tmp_path / "sdist"))
    made = {name for name in inside if name == "PKG-INFO" or name.startswith("aether_sync.egg-info/")}
    assert inside - made - OF_GIT == there - OF_GIT


def test_the_metadata_is_whole(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(wheel.read(name))
        points = wheel.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert (metadata["Name"], metadata["Version"]) == ("aether-sync", aether_sync.__version__)
    assert metadata["Requires-Python"] == f">={SUPPORTED[0]}"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    classifiers = metadata.get_all("Classifier", [])
    minors = [one.rpartition(" ")[2] for one in classifiers if one.startswith("Programming Language :: Python :: 3.")]
    assert tuple(minors) == SUPPORTED
    assert "Typing :: Typed" in classifiers
    assert not [one for one in classifiers if one.startswith("License ::")], "the license expression says it"
    assert set(metadata.get_all("Provides-Extra", [])) == set(extras())
    assert metadata.get_all("Project-URL") is None, "there is no page of the project yet"
    assert "aether-sync = aether_sync.cli:main" in points
    assert "[pytest11]\npytest_aether_sync = pytest_aether_sync\n" in points


def test_an_index_would_take_them(built: Built) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *built],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60 * UNIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.release
@pytest.mark.parametrize("version", SUPPORTED)
def test_the_sdist_builds_and_tests_itself(built: Built, version: str, tmp_path: Path) -> None:
    base = python(version)
    if base is None:
        pytest.skip(f"there is no Python {version} on this machine")
    source = unpack(built.sdist, tmp_path / "sdist")
    assert build(source, tmp_path / "dist").wheel.read_bytes() == built.wheel.read_bytes()
    environment = Environment(tmp_path / "venv", base)
    environment.pip("install", "--quiet", f"{tmp_path / 'dist' / built.wheel.name}[test]")
    environment.pip("check")
    shutil.rmtree(source / "aether_sync.egg-info")
    environment.run(
        "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", *REPRESENTATIVE, cwd=source, within=700
    )
