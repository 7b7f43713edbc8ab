"""Programs that work on the events of a consumer, and end in the midst of it."""

import os
import threading

import pytest

from aether_sync import Consumption, JetStreamEventStore, Runner, StoreClosedError

from ..support.common import PATIENCE

kept: list[object] = []  # to the end of the process


def takes_and_waits(url: str, stream: str, ack_wait: str, max_deliver: str) -> None:
    """Take one event, say so, and never acknowledge it."""
    store = JetStreamEventStore(url, stream)
    with store.consumer("worker", ack_wait=float(ack_wait), max_deliver=int(max_deliver)).iterate() as events:
        delivery = events.get(timeout=PATIENCE)
        print(delivery.sequence, delivery.attempt, flush=True)
        threading.Event().wait(PATIENCE)


def works(url: str, stream: str, ack_wait: str) -> None:
    """Take events, say which, and acknowledge each, until it is told to end."""
    with (
        JetStreamEventStore(url, stream) as store,
        store.consumer("worker", ack_wait=float(ack_wait)).iterate() as events,
    ):
        threading.Thread(target=lambda: (input(), events.close()), daemon=True).start()
        print("ready", flush=True)
        for delivery in events:
            print(delivery.sequence, flush=True)
            delivery.ack(confirm=True)


def ends_while_iterating(url: str, stream: str) -> None:
    """Leave a normal thread to iterate."""
    store = JetStreamEventStore(url, stream)
    events = store.consumer("worker").iterate()
    begun = threading.Event()

    def iterate() -> None:
        for _ in events:
            begun.set()
        print("ended")

    threading.Thread(target=iterate).start()
    begun.wait(PATIENCE)


def ends_while_running(url: str, stream: str, how: str) -> None:
    """Leave a runner whose handler works, or hangs."""
    store = JetStreamEventStore(url, stream)
    begun, go_on = threading.Event(), threading.Event()

    def handle(_: object) -> None:
        begun.set()
        go_on.wait(0.2 if how == "works" else None)
        print("handled", flush=True)

    kept.append(store.consumer("worker").run(handle, threads=1))
    begun.wait(PATIENCE)


def see_that_they_are_the_parents(events: Consumption, runner: Runner) -> None:
    """In a forked child, see that a consumption and a runner of the parent's are refused, and can be closed."""
    for used in (events.get, runner.wait):
        with pytest.raises(StoreClosedError, match="before the fork"):
            used(timeout=PATIENCE)
    assert runner.closed
    assert events.closed
    runner.close()


def forks(url: str, stream: str) -> None:
    """Fork with an open consumption and a running runner; the child makes its own."""
    store = JetStreamEventStore(url, stream)
    handled = threading.Event()
    mine, childs = store.consumer("mine"), store.consumer("the child's")  # one from before the fork serves both
    with mine.iterate() as events, store.consumer("theirs").run(lambda _: handled.set()) as runner:
        events.get(timeout=PATIENCE).ack(confirm=True)
        handled.wait(PATIENCE)
        child = os.fork()
        if not child:
            see_that_they_are_the_parents(events, runner)
            events.close()
            with childs.iterate() as own:
                own.get(timeout=PATIENCE).ack(confirm=True)
            store.close()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert not runner.closed
        assert not events.closed
    store.close()
