"""Programs that run short of something, and go on when it is there again."""

import contextlib
import gc
import os
import random
import resource
import signal
import time

import pytest

from aether_sync import ConnectError, Event, NATSEventBus

PATIENCE = 20 * float(os.environ.get("AETHER_TEST_UNIT", "1"))


def event(n: int = 0) -> Event:
    return Event(event_type="Happened", actor_id="lack-1", version=n)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def take_all_files(leave: int) -> list[int]:
    """Open files until there are no more, but for some."""
    taken = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    for _ in range(leave):
        os.close(taken.pop())
    return taken


def no_files(url: str, prefix: str) -> None:
    """There are none, or too few, at the first use; each kind of use says so, leaves nothing, and works later."""
    NATSEventBus(url, prefix=prefix).close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    for leave in range(8):
        bus = NATSEventBus(url, prefix=prefix, connect_timeout=PATIENCE)
        taken = take_all_files(leave)
        for use in (bus.start, lambda: bus.publish("n", event()), lambda: bus.subscribe("n"), bus.wait_connected):  # noqa: B023, F821
            if leave < 6:
                with pytest.raises(ConnectError, match=r"Too many open files.*ulimit -n"):
                    use()
        assert bus.try_publish("n", event()) == (leave >= 6)
        for one in taken:
            os.close(one)
        bus.publish("n", event())
        bus.flush(PATIENCE)
        assert bus.close(PATIENCE)
        del bus
        gc.collect()
        print(leave, open_files(), flush=True)


class Interrupted(BaseException):
    """Raised by a signal handler."""


def interrupted_first_uses(url: str, prefix: str, count: str) -> None:
    """An exception from a signal handler, at any moment of a first use, leaves no file behind.

    The collector does not run meanwhile: an exception that comes while it works is raised at the beginning of the first
    finalizer, which cannot help it. Finalizers of what is released at once may still get one; that is rare.
    """

    def interrupt(*_: object) -> None:
        raise Interrupted

    with NATSEventBus(url, prefix=prefix) as bus:  # libuv opens a pipe for all loops
        bus.flush(PATIENCE)
    gc.collect()
    gc.freeze()  # so that to collect takes no time
    gc.disable()
    before = open_files()
    signal.signal(signal.SIGALRM, interrupt)
    for n in range(int(count)):
        bus = NATSEventBus(url, prefix=prefix)
        gc.collect()
        with contextlib.suppress(Interrupted):
            signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-5, 1.5e-3))
            (bus.start, lambda: bus.publish("n", event()))[n % 2]()  # noqa: B023, F821
            signal.setitimer(signal.ITIMER_REAL, 0)
        with contextlib.suppress(Interrupted):
            signal.setitimer(signal.ITIMER_REAL, 0)
        bus.publish("n", event())
        bus.flush(PATIENCE)
        assert bus.close(PATIENCE)
    del bus
    end = time.monotonic() + PATIENCE / 2
    allowed = before + 3 * int(count) // 100
    while open_files() > allowed and time.monotonic() < end:
        gc.collect()
        time.sleep(0.002)
    assert open_files() <= allowed, (before, open_files())
