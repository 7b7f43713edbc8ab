"""What the figures were measured on, and what of it is missing."""

import os
import platform
import re
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["describe", "find_program", "lacking"]

_DISTRIBUTIONS = (
    *("aether-sync", "nats-py", "msgspec", "janus", "uvloop"),
    *("nats-py-sync", "pynats2", "natsrpy", "redis", "hiredis", "pyzmq", "blinker", "pyee"),
    *("eventsourcing", "psycopg"),
)
_PROGRAMS = {"redis-server": "redis-server", "postgres": "postgresql"}  # and what of Debian has them
_FOLDERS = "usr/lib/postgresql/*/bin"  # where Debian puts it, by version


def lacking(needs: Iterable[str]) -> str | None:
    """Say what of this is not installed, or return None."""
    for need in needs:
        if need in _PROGRAMS:
            if find_program(need) is None:
                return f"{need} is not installed: install Debian's {_PROGRAMS[need]}"
        elif find_spec(need) is None:
            return f"{need} is not installed: it comes with the extra bench"
    return None


def find_program(name: str) -> str | None:
    """Find a program where programs are, or where Debian has those of PostgreSQL."""
    found = sorted(Path("/").glob(f"{_FOLDERS}/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


def describe(url: str) -> dict[str, str]:
    """Describe the machine, the moment and every version that counts, that of the server included."""
    described = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _output("git", "describe", "--always", "--dirty") or "not known",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": str(os.cpu_count()),
        "load at start": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "nats-server": _version_in(_greeting(url)),
        "redis-server": _version_in(_output("redis-server", "--version")),
        "sqlite": sqlite3.sqlite_version,
        "postgresql": _version_in(_output(find_program("postgres") or "postgres", "--version")),
    }
    return described | {name: _installed(name) for name in _DISTRIBUTIONS}


def _installed(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def _output(*command: str) -> str:
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=Path(__file__).parent, timeout=10
        )
    except OSError:
        return ""
    return done.stdout.strip()


def _greeting(url: str) -> str:
    """What a NATS server says first."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as server:
        return server.recv(4_096).decode(errors="replace")


def _version_in(text: str) -> str:
    found = re.search(r"\b\d+\.\d+(\.\d+)?\b", text)
    return found[0] if found else "not installed"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    found = re.search(r"model name\s*: (.+)", text)
    return found[1] if found else platform.machine()
