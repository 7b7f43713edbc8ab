"""Receiving while another thread of the process computes, in Python, without a pause."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread

from .cases import Goal, Job, Sample, case
from .peers import nats_py
from .receive import iterate, receive_async

_SHARE = 0.5


@contextmanager
def burning() -> Iterator[None]:
    """Let a thread burn CPU: it gives the interpreter up only when it is made to."""
    is_over = False

    def burn() -> None:
        number = 0
        while not is_over:
            number = (number * 31 + 7) % 1_000_003

    thread = Thread(target=burn, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over = True
        thread.join()


def _while_burning(receive: Callable[[Job], Sample], job: Job) -> Sample:
    with burning():
        return receive(job)


@case("burn-aether-idle", "aether_sync, nothing else", share=_SHARE)
def aether_idle(job: Job) -> Sample:
    """``for event in bus.subscribe(...)``, as ``receive-aether``."""
    return iterate(job)


@case("burn-aether", "aether_sync, beside a thread that burns", share=_SHARE, goals=(Goal(0.35),))
def aether(job: Job) -> Sample:
    """The same beside a thread that does arithmetic; a connection that breaks makes it no figure."""
    return _while_burning(iterate, job)


@case("burn-nats-py-idle", "nats-py, asyncio, nothing else", base="burn-nats-py-idle", share=_SHARE)
def nats_py_idle(job: Job) -> Sample:
    """nats-py alone, as ``receive-nats-py``."""
    return receive_async(nats_py.PEER, job)


@case("burn-nats-py", "nats-py, asyncio, beside a thread that burns", base="burn-nats-py-idle", share=_SHARE)
def nats_py_burning(job: Job) -> Sample:
    """The same beside a thread that does arithmetic."""
    return _while_burning(lambda job: receive_async(nats_py.PEER, job), job)
