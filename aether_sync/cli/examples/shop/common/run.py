"""Starts all of the shop, and ends it in order at Ctrl-C: a nats-server, and what the Procfile says."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from aether_sync import NATSServer

HERE = Path(__file__).resolve().parent


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, cwd=HERE, process_group=0)  # Ctrl-C is for this program, not for that one
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=30.0)
        finally:  # it hangs, or Ctrl-C came again
            process.kill()


def tell_end(name: str, process: subprocess.Popen[bytes], ended: SimpleQueue[str]) -> None:
    process.wait()
    ended.put(name)


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
            signal.signal(number, signal.default_int_handler)  # each ends it, as Ctrl-C does
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ended: SimpleQueue[str] = SimpleQueue()
    try:
        with ExitStack() as stack:  # what has begun last ends first
            if "NATS_URL" not in os.environ:
                os.environ["NATS_URL"] = stack.enter_context(NATSServer(store_dir=HERE / "data")).url
            for line in (HERE / "Procfile").read_text().splitlines():
                name, _, command = line.partition(": ")
                process = stack.enter_context(running(shlex.split(command)))
                Thread(target=tell_end, args=(name, process, ended), daemon=True).start()
            print(f"{ended.get()} has ended by itself", file=sys.stderr)
            return 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
