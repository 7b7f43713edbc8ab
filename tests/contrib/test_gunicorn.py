"""Prometheus under a real gunicorn: what is scraped over HTTP is the sum of what all workers did."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from prometheus_client.parser import text_string_to_metric_families

from aether_sync import NATSServer

from ..support.common import PATIENCE, becomes, eventually

ROOT = Path(__file__).parents[2]
_GUIDE = ROOT / "aether_sync" / "guide" / "prometheus.md"
_BOOT = PATIENCE * 3  # seconds until a worker answers: it may have to import everything first, beside others that do
_CONFIG = re.compile(r"^```python\n(# gunicorn\.conf\.py\n.*?)^```$", re.M | re.S)


class Gunicorn:
    """gunicorn with ``tests.programs.metered``.

    Attributes:
        pids: Of the workers that have answered, each with its number of answers.
    """

    def __init__(self, server: NATSServer, port: int, prefix: str, folder: Path, *options: str) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._folder = folder
        config = folder / "gunicorn.conf.py"
        found = _CONFIG.search(_GUIDE.read_text())
        assert found, "the guide has gunicorn.conf.py"
        # All gunicorns of a user would have one control socket, and each stops its own around every start of a worker.
        # And the encoding is loaded here, as workers of another user may not be able to read this Python's files.
        config.write_text(f'{found[1]}\ncontrol_socket_disable = True\n"".encode("idna")\n')
        self._log = open(folder / "log", "w+")  # noqa: SIM115
        command = [sys.executable, "-m", "gunicorn", "--config", str(config), "--bind", f"127.0.0.1:{port}"]
        env = {
            **os.environ, "NATS_URL": server.url, "AETHER_TEST_PREFIX": prefix, "TMPDIR": str(folder),
        }  # fmt: skip
        self._process = subprocess.Popen(
            [*command, *options, "tests.programs.metered:app"], cwd=ROOT, env=env, stdout=self._log, stderr=self._log
        )
        self.pids: dict[int, int] = {}
        self._published = 0.0

    def _get(self, path: str) -> bytes:
        end = time.monotonic() + _BOOT
        while True:
            try:
                with urllib.request.urlopen(self._url + path, timeout=_BOOT) as answer:
                    return answer.read()  # type: ignore[no-any-return]
            except OSError:  # it is beginning, or the worker was killed just now
                assert time.monotonic() < end, self.log()
                time.sleep(0.02)

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def close_log(self) -> None:
        self._log.close()

    def publish(self, count: int, workers: int = 1) -> None:
        """Publish so many events at least, and until so many workers have answered.

        That is a matter of time, not of requests: one of gevent looks once a second whether it has answered enough.
        """
        end = time.monotonic() + _BOOT
        done = 0
        while done < count or len(self.pids) < workers:
            assert time.monotonic() < end, f"{done} answers of {len(self.pids)} workers\n{self.log()}"
            pid = json.loads(self._get("/"))["pid"]
            self.pids[pid] = self.pids.get(pid, 0) + 1
            done += 1
            if done > count:
                time.sleep(0.02)

    @property
    def total(self) -> int:
        return sum(self.pids.values())

    def value(self, name: str, **labels: str) -> float:
        """What a scrape says, summed over the series that have these labels."""
        families = text_string_to_metric_families(self._get("/metrics").decode())
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def published(self) -> float:
        """What a scrape says of the published events; it never goes down."""
        value = self.value("aether_sync_bus_published_total", namespace="web.order")
        assert value >= self._published, f"{value} after {self._published}"
        self._published = value
        return value

    def subscriptions(self) -> float:
        """How many processes that live have answered."""
        return self.value("aether_sync_bus_subscriptions")

    @property
    def folders(self) -> list[Path]:
        """The directories that were made for metrics."""
        return list(self._folder.glob("metrics-*"))

    def files(self) -> int:
        """How many processes have had to count at the same time."""
        return len(list(self._folder.glob("metrics-*/counter_*")))

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> None:
        self.signal(signal.SIGTERM)
        try:
            self._process.wait(_BOOT)
        finally:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def gunicorn(server: NATSServer, free_port: int, prefix: str, tmp_path: Path) -> Iterator[Callable[..., Gunicorn]]:
    begun: list[Gunicorn] = []

    def begin(*options: str, folder: Path = tmp_path) -> Gunicorn:
        begun.append(Gunicorn(server, free_port, prefix, folder, *options))
        return begun[-1]

    yield begin
    for one in begun:
        one.end()
        one.close_log()


@pytest.mark.both_loops(False)
@pytest.mark.parametrize("options", [("--preload",), pytest.param((), marks=pytest.mark.slow)], ids=str)
@pytest.mark.slow
def test_sums_over_workers_that_are_killed_and_restarted(
    gunicorn: Callable[..., Gunicorn], options: tuple[str, ...]
) -> None:
    web = gunicorn("--workers", "2", *options)
    web.publish(20, workers=2)
    becomes(lambda: (web.published(), web.subscriptions()), (web.total, 2))
    assert web.value("aether_sync_store_events_written_total") == web.total
    assert web.value("aether_sync_store_call_seconds_count", method="save_event") == web.total
    assert web.value("aether_sync_store_call_seconds_bucket", method="save_event", le="+Inf") == web.total

    killed = next(iter(web.pids))
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: web.subscriptions() == 1, "the end of the gauges of the one that was killed")
    assert web.published() == web.total
    web.publish(20, workers=3)
    becomes(lambda: (web.published(), web.subscriptions()), (web.total, 2))  # with the one that came instead

    web.signal(signal.SIGHUP)
    eventually(lambda: not web.subscriptions(), "the end of the gauges of those before")
    assert web.published() == web.total
    web.publish(20, workers=5)
    becomes(
        lambda: (web.published(), web.subscriptions()), (web.total, 2)
    )  # of all that there were, and of those that live
    assert web.files() <= 2 + 2 + 1, "as many files as processes at the same time"
    assert len(web.folders) == 1, "also after a reload"
    web.end()
    assert not web.folders
    assert "cannot be written" not in web.log()


@pytest.mark.slow
@pytest.mark.both_loops(False)
@pytest.mark.skipif(os.getuid() != 0, reason="only root can start workers of another user")
def test_workers_of_another_user(gunicorn: Callable[..., Gunicorn]) -> None:
    """The main process makes the directory, and gives it to them."""
    with TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        web = gunicorn("--workers", "2", "--preload", "--user", "65534", "--group", "65534", folder=Path(folder))
        web.publish(10, workers=2)
        becomes(lambda: (web.published(), web.subscriptions()), (web.total, 2))
        web.end()
        assert not web.folders
        assert "cannot be written" not in web.log()


@pytest.mark.slow
@pytest.mark.both_loops(False)
@pytest.mark.parametrize(
    ("worker", "options"),
    [  # not gevent with --preload: it patches in the workers, too late for what was loaded before
        ("sync", ("--preload",)),
        ("gthread", ("--preload",)),
        ("sync", ()),
        ("gthread", ()),
        ("gevent", ()),
    ],
    ids=str,
)
def test_sums_over_workers_that_end_after_some_requests(
    gunicorn: Callable[..., Gunicorn], worker: str, options: tuple[str, ...]
) -> None:
    """None loses anything: it writes what it has at its end."""
    web = gunicorn("--workers", "2", "--max-requests", "5", "--worker-class", worker, *options)
    web.publish(25, workers=6)
    becomes(web.published, web.total)
    assert web.files() <= 2 + 2 + 1
