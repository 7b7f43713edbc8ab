"""Signal handlers that raise, or close, at any moment: the bus goes on, and nobody hangs.

Signals reach the main thread alone, so these tests work on the main thread, with others beside it.
"""

import gc
import random
import signal
import threading
import time
from collections.abc import Callable

import pytest

from aether_sync import BusClosedError, EventBus, NATSEventBus, NATSServer, Subscription

from ..support.common import PATIENCE, eventually, first_of, make_event
from ..support.signals import INTERRUPTS, Interrupt, hammer

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no setitimer() here")


@pytest.mark.concurrent
def test_publish_and_get_survive_interrupts(local_bus: EventBus) -> None:
    with local_bus.subscribe("n", maxsize=100) as events:
        n = 0

        def work() -> None:
            nonlocal n
            n += 1
            local_bus.publish("n", make_event(n))
            events.get_batch(2, timeout=0)

        hammer(INTERRUPTS, work)
        events.get_batch(1000, timeout=0)
        local_bus.publish("n", make_event(-1))
        assert events.get(timeout=PATIENCE).data == {"n": -1}
        assert events.stats().pending_bytes == 0


@pytest.mark.concurrent
def test_a_blocked_get_survives_interrupts(local_bus: EventBus) -> None:
    stop = threading.Event()
    with local_bus.subscribe("n") as events, local_bus.subscribe("n") as others:

        def publish() -> None:
            n = 0
            while not stop.is_set():
                local_bus.publish("n", make_event(n))
                n += 1
                time.sleep(random.uniform(0, 2e-4))

        def read() -> None:
            for _ in others:
                pass

        threads = [threading.Thread(target=publish), threading.Thread(target=read), threading.Thread(target=read)]
        for thread in threads:
            thread.start()
        try:
            hammer(INTERRUPTS, lambda: events.get(timeout=PATIENCE))
            assert events.get(timeout=PATIENCE)
        finally:
            stop.set()
            others.close()
            for thread in threads:
                thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads)


@pytest.mark.concurrent
def test_publishing_to_a_cluster_survives_interrupts(make_bus: Callable[..., NATSEventBus]) -> None:
    here, there = make_bus(), make_bus(outbox_events=200)
    with here.subscribe("n", maxsize=1_000_000) as events, there.subscribe("n", maxsize=100) as own:
        n = 0

        def work() -> None:
            nonlocal n
            n += 1
            there.publish("n", make_event(n))
            own.get_batch(2, timeout=0)
            if n % 50 == 0:
                there.flush(PATIENCE)

        hammer(INTERRUPTS, work)
        there.flush(PATIENCE)
        there.publish("n", make_event(-1))
        got = []
        while not got or got[-1] != -1:
            event = events.get(timeout=PATIENCE)
            assert event.data is not None
            got.append(event.data["n"])
        assert got[:-1] == sorted(set(got[:-1])), "twice, or out of order"
        eventually(lambda: there.metrics().outbox_events == 0, "an empty outbox")


@pytest.mark.concurrent
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_subscribing_survives_interrupts(make_bus: Callable[..., NATSEventBus]) -> None:
    here, there = make_bus(), make_bus()
    here.start()

    def work() -> None:
        with here.subscribe("n", timeout=PATIENCE):
            pass

    hammer(INTERRUPTS // 5, work)
    gc.collect()
    with here.subscribe("n", timeout=PATIENCE) as events:
        there.publish("n", make_event(1))
        assert events.get(timeout=PATIENCE).data == {"n": 1}
        # An interrupt that falls into a finalizer ends it, which no code of ours can prevent.
        assert here.metrics().active_subscriptions <= 1 + INTERRUPTS // 100


@pytest.mark.concurrent
@pytest.mark.parametrize("attempt", first_of(range(20), 4))
def test_a_handler_closes_the_bus_over_what_it_interrupted(make_bus: Callable[..., NATSEventBus], attempt: int) -> None:
    here, there = make_bus(), make_bus()
    reports = []
    with here.subscribe("n", maxsize=1_000_000) as events, there.subscribe("n", maxsize=10):
        before = signal.signal(signal.SIGALRM, lambda *_: reports.append(there.close(PATIENCE)))
        published = 0
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-3, 2e-2))
            with pytest.raises(BusClosedError):
                while True:
                    there.publish("n", make_event(published))
                    published += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert reports == [there.close()]
        assert reports[0], f"left something undone: {reports[0]}"
        for n in range(published):
            event = events.get(timeout=PATIENCE)
            assert event.data == {"n": n}


def _missed(wait: Callable[[], object]) -> float:
    """Wait on the main thread, and have a signal come that does not end the wait; return how long it took."""

    def interrupt(*_: object) -> None:
        raise Interrupt

    def ring() -> None:
        time.sleep(0.1)
        begun.append(time.monotonic())
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)  # as the kernel may give it to any thread

    begun: list[float] = []
    before = signal.signal(signal.SIGUSR1, interrupt)
    other = threading.Thread(target=ring)
    other.start()
    try:
        with pytest.raises(Interrupt):
            wait()
        return time.monotonic() - begun[0]
    finally:
        other.join()
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.fault
@pytest.mark.parametrize("wait", first_of([Subscription.get, next]))
def test_a_signal_that_does_not_end_a_wait_is_handled_soon(local_bus: EventBus, wait: Callable[..., object]) -> None:
    """CPython looks for signals before it begins to wait; one that comes in between was seen at the next wake-up."""
    with local_bus.subscribe("n") as events:
        assert _missed(lambda: wait(events)) < PATIENCE


@pytest.mark.slow
@pytest.mark.fault
def test_such_a_signal_in_the_wait_for_a_connection(free_port: int) -> None:
    with NATSEventBus(f"nats://127.0.0.1:{free_port}", connect="background") as bus:
        assert _missed(lambda: bus.wait_connected(None)) < PATIENCE


@pytest.mark.fault
def test_such_a_signal_in_the_wait_for_an_answer(own_server: NATSServer) -> None:
    with NATSEventBus(own_server.url) as bus:
        bus.flush(PATIENCE)
        own_server.pause()
        bus.publish("n", make_event())
        assert _missed(lambda: bus.flush(None)) < PATIENCE
        own_server.resume()
