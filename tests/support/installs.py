"""Copies of this checkout, the Pythons of this machine, and environments in which nothing is installed."""

import configparser
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from .common import UNIT

ROOT = Path(__file__).parents[2]

#: The minor versions of Python that the metadata names.
SUPPORTED = ("3.11", "3.12", "3.13", "3.14")

#: What no clone has.
_LEFT_BEHIND = shutil.ignore_patterns(
    ".git",
    ".venv",
    "venv",
    "wheel",
    "build",
    "dist",
    "*.egg-info",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    ".coverage*",
)


def checkout(folder: Path) -> Path:
    """Copy all files of this checkout, and no others; return the folder."""
    shutil.copytree(ROOT, folder, ignore=_LEFT_BEHIND)
    return folder


def files_of(folder: Path) -> set[str]:
    """The files below a folder, without what Python has compiled."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@cache
def settings() -> configparser.ConfigParser:
    """What ``setup.cfg`` says."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def extras() -> dict[str, list[str]]:
    """What each extra requires, as ``setup.cfg`` has it."""
    section = settings()["options.extras_require"]
    return {name: _lines(text) for name, text in section.items()}


def oldest(requirements: list[str]) -> list[str]:
    """Pin each requirement to the oldest version that it allows; leave out those without one, and extras of our own."""
    found = (re.match(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)", one) for one in requirements)
    return [f"{one[1]}=={one[2]}" for one in found if one is not None]


def required() -> list[str]:
    """What every installation requires."""
    return _lines(settings()["options"]["install_requires"])


def _lines(text: str) -> list[str]:
    return [line.partition("#")[0].strip() for line in text.splitlines() if line.strip()]


@cache
def python(version: str) -> Path | None:
    """Return an interpreter of a minor version, of the path or of pyenv; None if there is none that runs."""
    candidates = [Path(sys.base_prefix, "bin", f"python{version}")]
    on_the_path = shutil.which(f"python{version}")
    if on_the_path is not None:
        candidates.append(Path(on_the_path))
    if shutil.which("pyenv") is not None:
        root = subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=False).stdout.strip()
        candidates += sorted(Path(root, "versions").glob(f"{version}.*/bin/python"))
    question = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in candidates:
        if candidate.exists():
            answer = subprocess.run([candidate, "-c", question], capture_output=True, text=True, check=False)
            if answer.stdout.strip() == version:
                return candidate
    return None


class Environment:
    """A virtual environment, in which nothing is installed at first."""

    def __init__(self, folder: Path, base: Path) -> None:
        subprocess.run([base, "-m", "venv", "--without-pip", folder], check=True, timeout=60 * UNIT)
        self.bin = folder / "bin"
        self.python = self.bin / "python"

    def pip(self, *arguments: str | Path, within: float = 600.0) -> str:
        """Run this Python's own pip on the environment."""
        return self._run([sys.executable, "-m", "pip", "--python", self.python, *arguments], within=within)

    def run(self, *command: str | Path, cwd: Path, within: float = 60.0, **environment: str) -> str:
        """Run one of its commands in a folder; return what it printed."""
        program, *arguments = command
        return self._run([self.bin / program, *arguments], cwd=cwd, within=within, **environment)

    def _run(self, command: list[str | Path], *, within: float, cwd: Path | None = None, **environment: str) -> str:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**inherited, **environment, "PATH": os.pathsep.join([str(self.bin), os.environ["PATH"]])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=within * UNIT,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout
