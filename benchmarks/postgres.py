"""A PostgreSQL server with Debian's settings: each commit is on the disk before it is answered."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .environment import find_program
from .listening import await_listening, held_port

__all__ = ["USER", "running"]

USER = "postgres"  #: who may do everything there, and whom it runs as if root starts it, which it refuses to be

_STOP = 10  # seconds


@contextmanager
def running() -> Iterator[str]:
    """Run one, in a temporary directory; yields its port."""
    identity: dict[str, Any] = {"user": USER, "group": USER, "extra_groups": ()} if os.geteuid() == 0 else {}
    with TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        folder = Path(parent, "data")
        folder.mkdir()
        if identity:
            os.chown(folder, *_ids())
        _initialize(folder, identity)
        with _serving(folder, identity) as port:
            yield str(port)


def _ids() -> tuple[int, int]:
    import pwd

    entry = pwd.getpwnam(USER)
    return entry.pw_uid, entry.pw_gid


def _initialize(folder: Path, identity: dict[str, Any]) -> None:
    command = [_program("initdb"), "-D", str(folder), "-U", USER, "--auth", "trust", "--no-sync", "-E", "UTF8"]
    subprocess.run(command, check=True, capture_output=True, cwd=folder, **identity)


@contextmanager
def _serving(folder: Path, identity: dict[str, Any]) -> Iterator[int]:
    command = [_program("postgres"), "-D", str(folder), "-k", str(folder), "-h", "127.0.0.1"]
    with (
        held_port() as port,
        (folder / "log").open("wb") as log,
        subprocess.Popen([*command, "-p", str(port)], stdout=log, stderr=log, cwd=folder, **identity) as server,
    ):
        try:
            await_listening(port)
            yield port
        finally:
            server.send_signal(signal.SIGINT)  # at SIGTERM it would wait for its clients
            try:
                server.wait(_STOP)
            except subprocess.TimeoutExpired:
                server.kill()


def _program(name: str) -> str:
    found = find_program(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed: install Debian's postgresql")
    return found
