"""Commands as a shell runs them: real processes, whose output and end are looked at."""

import json
import multiprocessing
import os
import pty
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from tempfile import TemporaryDirectory

import aether_sync

from .common import PATIENCE, eventually

__all__ = ["COMMAND", "Running", "environment", "import_commands", "interruptible", "run", "starting", "terminal"]

COMMAND = [sys.executable, "-m", "aether_sync"]

# The import of the command line takes most of the time of a short command. The processes of run() are forked from one
# that has imported it and has done nothing with it.
_imported = multiprocessing.get_context("forkserver")
_imported.set_forkserver_preload(["aether_sync.cli"])


def import_commands() -> None:
    """Begin the process that those of run() are forked from, which keeps a few files open."""
    forkserver.ensure_running()


def environment(**changes: str) -> dict[str, str]:
    kept = dict(os.environ)
    path = os.pathsep.join(filter(None, [str(Path(aether_sync.__file__).parents[1]), kept.get("PYTHONPATH")]))
    return kept | {"PYTHONPATH": path, "COLUMNS": "80"} | changes


class Running:
    """A command that runs; what it writes goes to files."""

    def __init__(self, directory: Path, *args: str, stdin: int = subprocess.DEVNULL) -> None:
        self._out, self._err = directory / "out", directory / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*COMMAND, *args], stdin=stdin, stdout=out, stderr=err, env=environment(), start_new_session=True
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.out.splitlines()]

    def wait_for(self, text: str) -> None:
        def said() -> bool:
            assert self.process.poll() is None or text in self.out + self.err, f"ended early: {self.err}"
            return text in self.out + self.err

        eventually(said, f"{text!r}")

    def wait_for_lines(self, count: int) -> None:
        eventually(lambda: self.out.count("\n") >= count, f"{count} lines")

    def end(self, number: int | None = None) -> int:
        """Wait for its end, after a signal if one is given, and return the exit status."""
        if number is not None:
            self.process.send_signal(number)
        status = self.process.wait(PATIENCE)
        assert "Traceback" not in self.err
        assert "Exception ignored" not in self.err
        return status


@contextmanager
def starting(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts commands, and kills what a test leaves of them."""
    started: list[Running] = []

    def start(*args: str, stdin: int = subprocess.DEVNULL) -> Running:
        directory = tmp_path / f"command-{len(started)}"
        directory.mkdir()
        started.append(Running(directory, *args, stdin=stdin))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()
        if running.process.stdin is not None:
            running.process.stdin.close()


@contextmanager
def interruptible() -> Iterator[None]:
    """A process in the background may ignore SIGINT, and under nohup SIGHUP; its children would inherit that."""
    wanted = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(*args: str, stdin: str | bytes = "", **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    given = stdin.encode() if isinstance(stdin, str) else stdin
    anew = any(name.startswith("PYTHON") for name in changes)  # the interpreter itself reads these
    found = (_run_anew if anew else _run_forked)(args, given, environment(**changes))
    assert "Traceback" not in found.stderr
    assert "Exception ignored" not in found.stderr
    return found


def _run_anew(args: Sequence[str], stdin: bytes, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *args]
    done = subprocess.run(command, input=stdin, capture_output=True, env=environ, timeout=PATIENCE * 3, check=False)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def _run_forked(args: Sequence[str], stdin: bytes, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    with TemporaryDirectory() as folder:
        Path(folder, "0").write_bytes(stdin)
        process = _imported.Process(target=_in_fork, args=(args, folder, os.getcwd(), dict(environ)))
        process.start()
        process.join(PATIENCE * 3)
        if (status := process.exitcode) is None:
            process.kill()
            process.join()
        process.close()
        out, err = (Path(folder, number).read_bytes().decode() for number in "12")
    if status is None:
        raise subprocess.TimeoutExpired(list(args), PATIENCE * 3, out, err)
    return subprocess.CompletedProcess(list(args), status, out, err)


def _in_fork(args: Sequence[str], folder: str, directory: str, environ: Mapping[str, str]) -> None:
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environ)
    for number, flags in enumerate((os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_CREAT)):
        opened = os.open(f"{folder}/{number}", flags)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1)  # noqa: SIM115
    sys.argv = ["aether-sync", *args]
    runpy.run_module("aether_sync", run_name="__main__", alter_sys=True)


@contextmanager
def terminal() -> Iterator[tuple[int, bytearray]]:
    """A terminal: the file that a command writes to, and what has been shown so far."""
    ours, its = pty.openpty()
    shown = bytearray()

    def read() -> None:
        try:
            while chunk := os.read(ours, 1024):
                shown.extend(chunk)
        except OSError:  # so a terminal ends
            pass

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield its, shown
    finally:
        os.close(its)
        reader.join()
        os.close(ours)
