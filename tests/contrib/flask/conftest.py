"""Applications that tests make, with bus and store in memory unless they say otherwise."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

import pytest
from flask import Flask

from aether_sync.contrib.flask import Aether

from ...support.common import PATIENCE, FreePort
from ...support.shell import environment

ROOT = Path(__file__).parents[3]
BOOT = PATIENCE * 3  # seconds until a web server answers: it may have to import everything, beside others that do

MakeApp = Callable[..., Flask]


@pytest.fixture
def aether() -> Aether:
    """An extension."""
    return Aether()


@pytest.fixture
def make_app(aether: Aether) -> Iterator[MakeApp]:
    """Makes applications of that extension, and closes them."""
    apps: list[Flask] = []

    def make(**settings: object) -> Flask:
        app = Flask(__name__)
        app.config.from_mapping({"AETHER_URL": "memory:", "TESTING": True} | settings)
        aether.init_app(app)
        apps.append(app)
        return app

    yield make
    for app in apps:
        aether.close(app)


class Served:
    """A web server that runs.

    Attributes:
        url: Where it answers.
        process: Its process.
    """

    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def ask(self, path: str, method: str = "GET", timeout: float = BOOT) -> tuple[int, str]:
        """Send a request; return status and body."""
        asked = urllib.request.Request(self.url + path, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def await_answer(self, wanted: str = "", of: Path | None = None) -> None:
        """Wait until it answers, and with a text if that is given.

        The file of a program is touched meanwhile: a reloader does not see what changes before its first look.
        """
        touched = time.monotonic()
        end = touched + BOOT
        while True:
            if of is not None and time.monotonic() - touched > PATIENCE / 4:
                of.touch()
                touched = time.monotonic()
            try:
                if wanted in self.ask("/")[1]:
                    return
            except (OSError, HTTPException):  # it begins, or begins anew
                pass
            assert self.process.poll() is None, self.log
            assert time.monotonic() < end, self.log
            time.sleep(0.05)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Tell it to end; return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(BOOT)


@contextmanager
def serving(command: list[str], folder: Path, **environ: str) -> Iterator[Served]:
    """Start a web server, in whose command ``PORT`` stands for the port."""
    with closing(FreePort()) as free:
        port = free.number
        command = [one.replace("PORT", str(port)) for one in command]
        log = folder / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [f"{Path(sys.executable).parent}/uwsgi", *command[1:]]
                if command[0] == "uwsgi"
                else [sys.executable, "-m", *command],
                cwd=folder,
                env=environment(**environ),
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        try:
            served = Served(port, process, log)
            served.await_answer()
            yield served
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
