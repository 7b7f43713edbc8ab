"""A signal handler that acts before every single line of ours that a call runs through, one line a run.

It publishes, subscribes, closes, or raises. Whatever it does, the call comes to its end, nobody is left waiting, what
the handler has published arrives, and the bus goes on.
"""

import asyncio
import itertools
import linecache
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import aether_sync
from aether_sync import (
    ANY_VERSION,
    AetherError,
    BusClosedError,
    EventBus,
    InMemoryEventStore,
    JetStreamEventStore,
    NATSEventBus,
    NATSServer,
    StoreClosedError,
    Subscription,
    SubscriptionClosedError,
    UnknownOutcomeError,
)

from ..support.common import PATIENCE, eventually, first_of, make_event

PACKAGE = str(Path(aether_sync.__file__).parent)

#: Every so many lines one is acted at in a run of all tests; 1 is every line.
STRIDE = int(os.environ.get("AETHER_TEST_STRIDE", "7"))


def sparser(times: int) -> int:
    """The stride of what takes long, unless every line is asked for."""
    return times * STRIDE if STRIDE > 1 else 1


#: Lines before which no signal comes: CPython looks for signals after calls, and nothing is called just before these.
#: (A ``with`` is come by once more at its end.)
_NO_PLACE = re.compile(r".*\.release\(\)|if mine:|try:|with .*lock:|_own\.logs = outer")

#: What a call may raise over which its bus or store was closed.
_ENDED = (BusClosedError, SubscriptionClosedError, StoreClosedError, UnknownOutcomeError)

pytestmark = pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="no signals here")


class Interrupt(Exception):
    """What the handler raises."""


def acting_at(
    number: int, work: Callable[[], object], action: Callable[[], object]
) -> tuple[str, BaseException | None]:
    """Do some work, with a handler that acts before the line of ours of this number.

    Returns:
        Which line that was, or nothing if it did not come to that; and what was raised.
    """
    seen, fired = 0, ""
    last: object = None

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal seen, fired, last
        if fired or not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        place = frame.f_code, frame.f_lineno
        is_same, last = place == last, place  # of a comprehension, each turn would count
        if (
            event == "line"
            and not is_same
            and not _NO_PLACE.match(linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip())
        ):
            if seen == number:
                fired = f"{frame.f_code.co_qualname} line {frame.f_lineno}"
                sys.settrace(None)
                signal.raise_signal(signal.SIGUSR1)
                return None
            seen += 1
        return trace

    def report(unraisable: "sys.UnraisableHookArgs") -> None:
        if unraisable.exc_type is not Interrupt:  # one may fall into a finalizer
            report_before(unraisable)

    report_before, sys.unraisablehook = sys.unraisablehook, report
    handler = signal.signal(signal.SIGUSR1, lambda *_: action())
    traced = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except BaseException as error:
        return fired, error
    finally:
        sys.settrace(traced)
        signal.signal(signal.SIGUSR1, handler)
        sys.unraisablehook = report_before
    return fired, None


class Reader:
    """Reads a subscription in a thread of its own until it ends."""

    def __init__(self, events: Subscription) -> None:
        self.got: list[int] = []
        self._events = events
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for event in self._events:
            self.got.append(event.version)

    def has(self, version: int) -> bool:
        return version in self.got

    def has_ended(self) -> bool:
        self._thread.join(PATIENCE)
        return not self._thread.is_alive()


class CoroutineReader(Reader):
    """Reads it in a coroutine, on an event loop of its own."""

    def _read(self) -> None:
        async def read() -> None:
            async for event in self._events:
                self.got.append(event.version)

        asyncio.run(read())


class Scene:
    """A bus, readers in a thread and in a coroutine, and one of another node, or of the same one."""

    def __init__(self, bus: EventBus, other: EventBus) -> None:
        self.bus, self.other = bus, other
        self.mine = bus.subscribe("own")
        self.readers = [Reader(bus.subscribe("n")), CoroutineReader(bus.subscribe("n")), Reader(other.subscribe("n"))]
        self.published: list[int] = []
        self.numbers = iter(range(1, 1_000))
        self.end = 0.0  # when it has taken too long

    def publish(self) -> None:
        version = next(self.numbers)
        self.bus.publish("n", make_event(version=version))
        self.published.append(version)

    # -- what is done

    def publishing(self) -> None:
        self.publish()
        self.bus.publish_many("own", [make_event(version=1), make_event(version=2)])
        assert self.mine.get(timeout=PATIENCE)
        assert self.mine.get_batch(10, timeout=PATIENCE)

    def waiting(self) -> None:
        timer = threading.Timer(0.002, lambda: self.bus.closed or self.bus.publish("own", make_event(version=3)))
        timer.start()
        try:
            self.mine.get(timeout=PATIENCE)
        finally:
            timer.join()

    def subscribing(self) -> None:
        with self.bus.subscribe("own", "m.*", timeout=PATIENCE), self.bus.subscribe("m.1", timeout=PATIENCE):
            self.bus.metrics()

    def flushing(self) -> None:
        self.publish()
        self.bus.flush(PATIENCE)

    def closing(self) -> None:
        self.bus.close(PATIENCE)

    # -- what a handler does meanwhile

    def publishes(self) -> None:
        try:
            self.publish()
        except BusClosedError:
            assert self.bus.closed

    def subscribes(self) -> None:
        if not isinstance(self.bus, NATSEventBus):  # it would wait for the server
            try:
                self.bus.subscribe("n").close()
            except BusClosedError:
                assert self.bus.closed

    def closes(self) -> None:
        self.bus.close(PATIENCE)

    def raises(self) -> None:
        raise Interrupt

    # -- what must hold then

    def check(self, doing: str) -> None:
        assert time.monotonic() < self.end, f"{doing} took too long"
        closed = self.bus.closed
        if not closed:
            self.publish()
            for reader in self.readers:
                eventually(lambda reader=reader: reader.has(self.published[-1]), f"the event after {doing}")
        report = self.bus.close(PATIENCE)
        assert not report.timed_out
        assert not report.unsent
        self.other.close(PATIENCE)
        for reader in self.readers:
            assert reader.has_ended(), f"a reader sleeps on after {doing}"
            if not closed:
                assert not set(self.published) - set(reader.got), f"lost after {doing}"
            assert len(set(reader.got)) == len(reader.got), f"twice after {doing}"


def at_every_line(make: Callable[[], Any], work: str, action: str, stride: int = STRIDE) -> int:
    """Play a scene again and again, with a handler that acts so many lines later each time; returns how many lines."""
    number = 0
    while True:
        scene = make()
        scene.end = time.monotonic() + PATIENCE
        line, error = acting_at(number, getattr(scene, work), getattr(scene, action))
        doing = f"{work}, where the handler {action} before {line}"
        ours = _ENDED if action == "closes" else Interrupt
        if error is not None and not isinstance(error, ours):
            raise AssertionError(f"not an error of {doing}") from error
        try:
            scene.check(doing)
        except AetherError as error:
            raise AssertionError(f"an error after {doing}") from error
        if not line:
            return number
        number += stride


class StoreScene:
    """A store with some events, and those who read on in it."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.end = 0.0
        self.interrupted = False
        self.actors = (f"a-{n}" for n in range(1_000))
        store.save_events([make_event(version=n, actor_id="old") for n in range(1, 11)], timeout=PATIENCE)
        self.follower = store.follow()
        self.consumption = (
            store.consumer("c", ack_wait=0.5).iterate() if isinstance(store, JetStreamEventStore) else None
        )
        self.seen = [stored.sequence for stored in self.follower.get_batch(3, timeout=PATIENCE)]

    def append(self) -> None:
        actor = next(self.actors)
        self.store.append(actor, make_event(actor_id=actor), expected_version=ANY_VERSION, timeout=PATIENCE)

    # -- what is done

    def appending(self) -> None:
        self.append()

    def reading(self) -> None:
        assert len(self.store.get_events("old", timeout=PATIENCE)) == 10

    def following(self) -> None:
        self.seen += [self.follower.get(timeout=PATIENCE).sequence]
        self.seen += [stored.sequence for stored in self.follower.get_batch(3, timeout=PATIENCE)]

    def consuming(self) -> None:
        for delivery in self.consumption.get_batch(3, timeout=PATIENCE):
            delivery.ack()

    def closing(self) -> None:
        self.store.close()

    # -- what a handler does meanwhile

    def appends(self) -> None:
        try:
            self.append()
        except StoreClosedError:
            assert self.store.closed

    def closes(self) -> None:
        self.store.close()

    def raises(self) -> None:
        self.interrupted = True
        raise Interrupt

    # -- what must hold then

    def check(self, doing: str) -> None:
        assert time.monotonic() < self.end, f"{doing} took too long"
        if not self.store.closed:
            self.append()
            last = self.store.last_sequence(timeout=PATIENCE)
            checkpoint = self.follower.sequence
            while self.follower.sequence < last:
                self.seen.append(self.follower.get(timeout=PATIENCE).sequence)
            assert self.seen == sorted(set(self.seen)), f"twice, or out of order, after {doing}"
            missing = set(range(checkpoint + 1, last + 1)) - set(self.seen)
            assert len(missing) <= self.interrupted, f"passed over after {doing}"  # the one in hand
            if self.consumption is not None:
                assert self.consumption.get(timeout=PATIENCE)
        self.store.close()
        assert self.follower.closed
        assert list(self.follower) == []


ACTIONS = ["publishes", "subscribes", "closes", "raises"]


def each_of(works: list[str], actions: list[Any], *default: tuple[str, str | None]) -> list[Any]:
    """All that is done with all that a handler does meanwhile; only these pairs are not slow."""
    assert set(default) <= set(itertools.product(works, actions))
    return [
        pytest.param(*pair, marks=() if pair in default else pytest.mark.slow)
        for pair in itertools.product(works, actions)
    ]


@pytest.mark.concurrent
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize(
    ("work", "action"),
    each_of(
        ["publishing", "waiting", "subscribing", "closing"],
        ACTIONS,
        ("publishing", "raises"),
        ("waiting", "closes"),
        ("subscribing", "subscribes"),
        ("closing", "publishes"),
    ),
)
def test_of_a_bus_in_one_process(work: str, action: str) -> None:
    def make() -> Scene:
        bus = EventBus()
        return Scene(bus, bus)

    assert at_every_line(make, work, action) > 10


@pytest.mark.concurrent
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("action", first_of([action for action in ACTIONS if action != "subscribes"]))
@pytest.mark.parametrize("work", first_of(["publishing", "flushing", "subscribing", "closing"]))
def test_of_a_bus_across_nodes(server: NATSServer, prefix: str, work: str, action: str) -> None:
    def make() -> Scene:
        return Scene(NATSEventBus(server.url, prefix=prefix), NATSEventBus(server.url, prefix=prefix))

    assert at_every_line(make, work, action, stride=sparser(2)) > 10


STORE_ACTIONS = ["appends", "closes", "raises"]


@pytest.mark.concurrent
@pytest.mark.parametrize(
    ("work", "action"),
    each_of(
        ["appending", "reading", "following", "closing"],
        STORE_ACTIONS,
        ("appending", "appends"),
        ("following", "raises"),
        ("closing", "closes"),
    ),
)
def test_of_a_store_in_memory(work: str, action: str) -> None:
    assert at_every_line(lambda: StoreScene(InMemoryEventStore()), work, action) > 5


@pytest.mark.concurrent
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize(
    ("work", "action"),
    each_of(
        ["appending", "reading", "following", "consuming", "closing"],
        STORE_ACTIONS[1:],  # to append there would wait for the server, as no handler may
        ("appending", "closes"),
        ("following", "raises"),
        ("consuming", "raises"),
    ),
)
def test_of_a_store(server: NATSServer, prefix: str, work: str, action: str) -> None:
    numbers = itertools.count()

    def make() -> StoreScene:
        return StoreScene(JetStreamEventStore(server.url, stream=f"{prefix}-{next(numbers)}"))

    assert at_every_line(make, work, action, stride=10 * STRIDE) > 20


@pytest.mark.concurrent
@pytest.mark.parametrize(
    ("kind", "actors"), each_of(["memory", "jetstream"], [None, "a-*"], ("memory", None), ("jetstream", "a-*"))
)
def test_a_follower_that_a_handler_closes_has_passed_over_nothing(
    server: NATSServer, prefix: str, kind: str, actors: str | None
) -> None:
    store = InMemoryEventStore() if kind == "memory" else JetStreamEventStore(server.url, stream=prefix)
    with store:
        for version in range(1, 25):
            if version % 12 == 1:
                both = [make_event(version=version + n, actor_id=actor) for n in range(4) for actor in ("a-1", "b-1")]
                store.save_events(both, timeout=PATIENCE)
            elif version % 12 > 4:
                store.save_event(make_event(version=version, actor_id="a-1"), timeout=PATIENCE)
        with store.follow(actors=actors, timeout=PATIENCE) as follower:
            everything = take_until_caught_up(follower, [])
        assert len(everything) > 20
        line, number = "some", 0
        while line:
            taken: list[int] = []
            follower = store.follow(actors=actors, timeout=PATIENCE)
            line, error = acting_at(number, lambda: take_until_caught_up(follower, taken), follower.close)  # noqa: B023
            assert error is None or isinstance(error, StoreClosedError), f"not an error, before {line}"
            assert taken == everything[: len(taken)], f"passed over before {line}"
            if line:
                assert list(follower) == [], f"given after the end before {line}"
                assert follower.sequence < [*everything, math.inf][len(taken)], (
                    f"the checkpoint is too far before {line}"
                )
            follower.close()
            number += STRIDE if kind == "memory" else sparser(3)


def take_until_caught_up(follower: Any, taken: list[int]) -> list[int]:
    """Take all there is, if nobody closes it."""
    while not (follower.is_caught_up or follower.closed):
        taken += [one.sequence for one in follower.get_batch(3, timeout=PATIENCE, until_caught_up=True)]
    return taken
