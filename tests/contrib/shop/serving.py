"""The shop as the command writes it, with its worker and its web server as processes; and Chromium."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from aether_sync import NATSServer

from ...support.common import PATIENCE, FreePort
from ...support.shell import environment, run

__all__ = ["BOOT", "Shop", "browsing", "find_chromium", "serving", "write_shop"]

BOOT = PATIENCE * 3  # seconds until a process is ready: it has to import everything, beside others that do


def write_shop(folder: Path, framework: str) -> None:
    """Write it, by the command."""
    done = run("example", "shop", str(folder), "--framework", framework)
    assert done.returncode == 0, done.stderr


class Shop:
    """The processes of a shop, and what a client asks of it.

    Attributes:
        server: That of its events, if a test runs each part by itself.
        port: That of its web server.
        url: Where that answers.
        web: The process of that.
    """

    server: NATSServer
    web: subprocess.Popen[bytes]

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "log"

    @property
    def log(self) -> str:
        """What its processes have written."""
        return self._log.read_text(errors="replace")

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start what the ``Procfile`` has by this name."""
        lines = (self._folder / "Procfile").read_text().splitlines()
        (command,) = [line.removeprefix(f"{name}: ") for line in lines if line.startswith(f"{name}: ")]
        with self._log.open("ab") as log:
            return subprocess.Popen(
                ["sh", "-c", f"exec {command}"],
                cwd=self._folder,
                env=environment(
                    NATS_URL=self.server.url,
                    PORT=str(self.port),
                    PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
                ),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_web(self) -> None:
        """Start the web server."""
        self.web = self.start("web")

    def await_answer(self) -> None:
        """Wait until it answers."""
        self.ask("/orders")

    def end_web(self) -> None:
        """End the web server in order."""
        self.web.send_signal(signal.SIGTERM)
        assert self.web.wait(BOOT) == 0, self.log

    def ask(self, path: str, form: dict[str, object] | None = None, key: str = "") -> Any:
        """Send a request, again until it is answered by a success; return the JSON of the answer, if it has any."""
        end = time.monotonic() + BOOT
        while True:
            data = None if form is None else urllib.parse.urlencode(form).encode()
            request = urllib.request.Request(self.url + path, data, {"Idempotency-Key": key})
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                    found = answer.read()
                    return json.loads(found) if found else None
            except HTTPError as error:
                with error:
                    if error.code < 500:
                        raise
            except (OSError, HTTPException):  # it begins, or begins anew
                pass
            assert time.monotonic() < end, self.log
            time.sleep(0.05)

    def place(self, number: int, customer: str = "Ada", items: int = 1, article: str = "tea") -> None:
        """Place an order, whatever happens meanwhile."""
        self.ask(f"/orders/{number}", {"customer": customer, "items": items, "article": article}, f"key-{number}")

    @contextmanager
    def ordering(self, first: int) -> Iterator[None]:
        """Place and ship orders all the time, from another thread."""
        enough, errors = threading.Event(), list[BaseException]()

        def order() -> None:
            number = first
            try:
                while not enough.wait(0.2):
                    self.place(number)
                    self.ask(f"/orders/{number}/ship", {})
                    number += 1
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=order)
        thread.start()
        try:
            yield
        finally:
            enough.set()
            thread.join()
        if errors:
            raise errors[0]


@contextmanager
def serving(folder: Path, framework: str) -> Iterator[Shop]:
    """Write a shop, and run it."""
    write_shop(folder, framework)
    with ExitStack() as stack:
        server = stack.enter_context(NATSServer())
        port = stack.enter_context(closing(FreePort())).number
        shop = Shop(folder, port)
        shop.server = server
        worker = shop.start("worker")
        shop.start_web()
        try:
            shop.await_answer()
            yield shop
        finally:
            for process in (shop.web, worker):
                process.terminate()
            for process in (shop.web, worker):
                try:
                    process.wait(BOOT)
                finally:
                    if process.poll() is None:
                        os.killpg(process.pid, signal.SIGKILL)
                        process.wait()


def find_chromium() -> tuple[str, str]:
    """Return where Chromium and its driver are, as Debian's packages ``chromium`` and ``chromium-driver`` have them."""
    found = [shutil.which(one) for one in ("chromium", "chromedriver")]
    if None in found:
        missing = "chromium and chromedriver are not on the PATH"
        assert os.environ.get("AETHER_TEST_CHROMIUM") != "required", missing
        pytest.skip(missing)
    return tuple(found)  # type: ignore[return-value]


@contextmanager
def browsing(folder: Path, width: int = 1_100, height: int = 800) -> Iterator[Chrome]:
    """Run Chromium without a window."""
    binary, driver = find_chromium()
    options = ChromeOptions()
    options.binary_location = binary
    for option in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
        f"--user-data-dir={folder / 'chromium'}", f"--window-size={width},{height}",
    ):  # fmt: skip
        options.add_argument(option)
    browser = Chrome(options, ChromeService(driver, log_output=subprocess.DEVNULL))
    try:
        yield browser
    finally:
        browser.quit()
