"""The Django project of the tests: in this process, and in a folder of its own with processes of its own."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.error import HTTPError

import psycopg
from psycopg import sql

from benchmarks import postgres

from .common import PATIENCE, eventually
from .shell import environment, interruptible

BOOT = PATIENCE * 3  # seconds in which a program of Django has begun, on a busy machine

__all__ = ["PROJECT", "Project", "postgres_databases", "set_up"]

PROJECT = Path(__file__).parents[1] / "programs" / "django_project"


def set_up() -> None:
    """Set Django up in this process, with the settings of the project, if that was not done before."""
    from django.conf import settings

    if settings.configured:
        return
    sys.path.insert(0, str(PROJECT))
    folder = tempfile.mkdtemp(prefix="aether-django-")
    atexit.register(_remove, folder, os.getpid())
    changes = {"DJANGO_SETTINGS_MODULE": "site_settings", "SHOP_FOLDER": folder}
    os.environ.update(changes)
    import django

    try:
        django.setup()
    finally:
        for name in changes:
            del os.environ[name]  # programs that tests start are none of this project


def _remove(folder: str, pid: int) -> None:
    if os.getpid() == pid:  # no child that has been forked
        shutil.rmtree(folder, ignore_errors=True)


class Project:
    """The project in a folder.

    Attributes:
        folder: Where it is.
    """

    def __init__(self, folder: Path, url: str, stream: str, postgres: str | None = None) -> None:
        self.folder = folder / "project"
        shutil.copytree(PROJECT, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        self._stack = ExitStack()
        self._env = environment(
            SHOP_FOLDER=str(self.folder), SHOP_NATS=url, SHOP_STREAM=stream, PYTHONWARNINGS="default::ResourceWarning"
        )
        if postgres is not None:
            self._env |= {"SHOP_POSTGRES": postgres, "SHOP_DATABASE": stream}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def migrate(self) -> None:
        """Make the tables."""
        if "SHOP_POSTGRES" in self._env:
            name = self._env["SHOP_DATABASE"]
            for alias in "default", "other":
                _create_database(self._env["SHOP_POSTGRES"], f"{name}_{alias}")
        self.run("migrate", "--run-syncdb")

    def run(self, *command: str, status: int = 0, **env: str) -> str:
        """Run a command of ``manage.py``, or another module by ``-m``; return what it has written."""
        done = subprocess.run(
            [sys.executable, *(command if command[0] == "-m" else ("manage.py", *command))],
            cwd=self.folder,
            env=self._env | env,
            capture_output=True,
            text=True,
            timeout=PATIENCE * 3,
            check=False,
        )
        assert done.returncode == status, f"status {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def start(self, *command: str, **env: str) -> "Started":
        """Start such a command, which runs until the end of the test."""
        return self._stack.enter_context(Started(self.folder, self._env | env, command))


class Started:
    """A command that runs."""

    def __init__(self, folder: Path, env: dict[str, str], command: tuple[str, ...]) -> None:
        handle, path = tempfile.mkstemp(dir=folder, suffix=".log")
        self._log = Path(path)
        with interruptible():
            self.process = subprocess.Popen(
                [sys.executable, *(command if command[0] == "-m" else ("manage.py", *command))],
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=handle,
                start_new_session=True,
            )
        os.close(handle)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_for(self, text: str) -> None:
        def said() -> bool:
            assert self.process.poll() is None or text in self.log, f"ended early: {self.log}"
            return text in self.log

        end = time.monotonic() + BOOT
        while not said():
            assert time.monotonic() < end, f"{text!r} is not in {self._log} within {BOOT:g} s: {self.log}"
            time.sleep(0.01)

    def get(self, url: str) -> str:
        """Ask a web server, which may not listen yet."""
        found: list[str] = []

        def answers() -> bool:
            assert self.process.poll() is None, f"ended early: {self.log}"
            try:
                with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                    found.append(answer.read().decode())
            except HTTPError as error:
                raise AssertionError(f"{error}: {self.log}") from error
            except OSError:
                return False
            return True

        eventually(answers, url)
        return found[0]

    def end(self, number: int, *, group: bool = False) -> int:
        """Send a signal, to the whole group as a terminal does or to the process; return the exit status."""
        (os.killpg if group else os.kill)(self.process.pid, number)
        return self.process.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, 9)
        self.process.wait(PATIENCE)


def _create_database(port: str, name: str) -> None:
    with psycopg.connect(f"host=127.0.0.1 port={port} dbname=postgres user={postgres.USER}", autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


@contextmanager
def postgres_databases(port: str, name: str) -> Iterator[str]:
    """Give this process another alias, of a database of its own with all tables."""
    from django.core.management import call_command
    from django.db import connections

    _create_database(port, name)
    settings = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "HOST": "127.0.0.1",
        "PORT": port,
        "USER": postgres.USER,
    }
    connections.settings["postgres"] = connections.configure_settings({"default": {}, "postgres": settings})["postgres"]
    try:
        call_command("migrate", database="postgres", run_syncdb=True, verbosity=0)
        yield "postgres"
    finally:
        connections["postgres"].close()
        del connections["postgres"], connections.settings["postgres"]
