"""Real workers of Celery, each a process of its own, and a sender of tasks."""

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import pools

from aether_sync import Event, JetStreamEventStore, NATSServer, Subscription

from ...programs.celery_broker import settings
from ...support.common import PATIENCE, eventually

ROOT = Path(__file__).parents[3]
PROGRAM = "tests.programs.celery_tasks"
BOOT = PATIENCE * 3  # seconds until a worker is ready: it imports everything first, beside others that do


class CeleryWorker:
    """``celery worker`` with :mod:`tests.programs.celery_tasks`.

    Attributes:
        process: The main process.
    """

    def __init__(self, folder: Path, env: dict[str, str], *options: str) -> None:
        self.folder = folder
        self._log = folder / f"log-{uuid.uuid4().hex[:6]}"
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            PROGRAM,
            "worker",
            "-l",
            "INFO",
            "-n",
            f"{uuid.uuid4().hex}@%h",
        ]
        command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, *options], cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True
            )

    def log(self) -> str:
        """What the worker has logged."""
        return self._log.read_text()

    def wait_ready(self) -> None:
        """Wait until it takes tasks."""
        end = time.monotonic() + BOOT
        while "ready." not in self.log():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < end, self.log()
            time.sleep(0.02)

    def stop(self, sent: signal.Signals = signal.SIGTERM, within: float = BOOT) -> float:
        """Tell it to stop, and return how many seconds that took."""
        begun = time.monotonic()
        self.process.send_signal(sent)
        try:
            self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {within:g} s\n{self.log()}") from None
        return time.monotonic() - begun

    def threads_left(self) -> list[str]:
        """The threads of the library that were left when processes ended, as far as signals told of their end."""
        return [name for path in self.folder.glob("threads-*") for name in path.read_text().split()]

    def statuses(self) -> set[int]:
        """The statuses of processes that have told of their end."""
        return {int(path.read_text()) for path in self.folder.glob("status-*")}

    def ended(self) -> int:
        """How many processes have told of their end."""
        return len(list(self.folder.glob("threads-*")))

    def kill(self) -> None:
        """End it and its processes, whatever they do."""
        with contextlib.suppress(ProcessLookupError):  # none is left
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


StartWorker = Callable[..., CeleryWorker]


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of its own, as Debian's package ``redis-server`` has it."""
    binary = shutil.which("redis-server")
    if binary is None:
        if os.environ.get("AETHER_TEST_REDIS") == "required":
            pytest.fail("there is no redis-server on the PATH")
        pytest.skip("there is no redis-server on the PATH")
    folder = tmp_path_factory.mktemp("redis")
    command = [binary, "--port", "0", "--unixsocket", str(folder / "socket"), "--save", "", "--dir", str(folder)]
    with (folder / "log").open("w") as log:
        redis = subprocess.Popen(command, stdout=log, stderr=log)
    eventually(lambda: "eady to accept" in (folder / "log").read_text(), "Redis")
    yield f"redis+socket://{folder}/socket"
    redis.terminate()
    redis.wait(PATIENCE)


@pytest.fixture
def broker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which broker the workers of a test have: files, unless the test is parametrized by ``redis``."""
    wanted = getattr(request, "param", "files")
    if wanted == "redis":
        monkeypatch.setenv("AETHER_TEST_BROKER", request.getfixturevalue("redis_url"))
    return str(wanted)


@pytest.fixture
def start_worker(
    server: NATSServer, broker: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StartWorker]:
    """Starts workers, and ends them."""
    monkeypatch.setenv("AETHER_TEST_PREFIX", prefix)
    workers: list[CeleryWorker] = []

    def start(*options: str, ready: bool = True, url: str | None = None, **settings: object) -> CeleryWorker:
        env = {
            **os.environ,
            "NATS_URL": url or server.url,
            "AETHER_TEST_FOLDER": str(tmp_path),
            "AETHER_TEST_SETTINGS": " ".join(f"{name}={value}" for name, value in settings.items()),
            "C_FORCE_ROOT": "1",
        }
        workers.append(CeleryWorker(tmp_path, env, *options))
        if ready:
            workers[-1].wait_ready()
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()
        print(worker.log())  # which is shown if the test has failed


Send = Callable[..., Any]


@pytest.fixture
def send(start_worker: StartWorker, tmp_path: Path) -> Iterator[Send]:
    """Sends tasks, by their names."""
    held = [Celery("sender", set_as_current=False, **settings(tmp_path))]

    def send(name: str, *args: object, **options: Any) -> Any:
        return held[0].send_task(f"{PROGRAM}.{name}", args, **options)

    def revoke(task_id: str) -> None:
        held[0].control.revoke(task_id, terminate=True)

    send.revoke = revoke  # type: ignore[attr-defined]
    yield send
    held.pop().close()
    pools.reset()
    gc.collect()  # what an application has opened is open until it is collected


@pytest.fixture
def store(make_store: Callable[..., JetStreamEventStore], prefix: str) -> JetStreamEventStore:
    """That of the tasks."""
    return make_store(stream=f"{prefix}-store")


def take(events: Subscription, count: int) -> list[Event]:
    """Take so many events."""
    return [events.get(timeout=BOOT) for _ in range(count)]
