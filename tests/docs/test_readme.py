"""The README: its programs run, its commands are one line each, and what it names exists."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import aether_sync
from aether_sync import NATSServer

from ..support.common import PATIENCE

TESTS = Path(__file__).parents[1]
README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.M | re.S)
PROGRAMS = [text for language, text in BLOCKS if language == "python"]

#: What the README says that a program prints.
TOLD = {PROGRAMS[0]: re.findall(r"`(orders\.eu [^`]*)`", README)}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda text: text.strip().splitlines()[-1].strip()[:30])
def test_programs_run(program: str, server: NATSServer) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error::ResourceWarning", "-c", program],
        env={**os.environ, "NATS_URL": server.url},
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    for told in TOLD.get(program, ()):
        assert told in done.stdout


@pytest.mark.parametrize("program", [one for one in PROGRAMS if "def test_" in one])
def test_tests_in_it_pass(program: str, server: NATSServer, tmp_path: Path) -> None:
    (tmp_path / "test_of_the_readme.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(tmp_path)],
        env={**os.environ, "NATS_URL": server.url},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_two_commands() -> None:
    commands = [text.strip() for language, text in BLOCKS if language == "sh"][:2]
    assert all("\n" not in command for command in commands)
    assert "aether-sync demo" in commands[0]
    assert "pytest" in commands[1]


def test_each_row_of_what_can_go_wrong_is_a_test() -> None:
    rows = re.findall(r"^\| .* \|$", README.partition("### What can go wrong")[2].partition("\n## ")[0], re.M)[2:]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(test_\w+)::(test_\w+)`", row)
        assert named, f"no test: {row}"
        for module, function in named:
            (where,) = TESTS.rglob(f"{module}.py")
            assert f"def {function}(" in where.read_text(), f"{module} has no {function}"


def test_public_names_are_there() -> None:
    told = set(re.findall(r"\b[A-Z]\w+(?:Error|Bus|Server|Filter|Stored|Connection)\b|\bConnection\b", README))
    go = {"SubscribeToEventStored", "SubscribeWithFilter", "EventFilter", "NewEventBus", "NewNATSEventBus"}
    builtin = {"TimeoutError", "TypeError", "ValueError"}
    assert {name for name in told - go - builtin if not hasattr(aether_sync, name)} == set()
