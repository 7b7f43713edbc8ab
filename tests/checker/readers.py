"""Followers, and the workers of consumers: what they got is recorded."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from random import Random
from time import monotonic

from aether_sync import Delivery

from ..programs import checked
from ..programs.checked import ACK_WAIT, AWAY, MAX_DELIVER
from ..programs.run import start
from ..support.common import PATIENCE
from .history import Delivered, Life, Record
from .run import END, SETTLE, STREAM, Node, Run, record_of

#: What each follower asks for: the beginning of the actors' ids, and a type.
FOLLOWERS = {"f-all": ("", ""), "f-plain": ("plain-", ""), "f-moved": ("", "Moved")}

#: How each consumer is worked on, and the type that it asks for.
CONSUMERS = {"iterated": ("consume", ""), "run": ("run", "Moved")}

#: A consumer with a runner in one process, which nobody kills.
ALONE = "alone"


def follow(run: Run, node: Node, name: str) -> None:
    """Follow the store to its end, in many lives, each behind the one before; now and then also from the beginning."""
    random, checkpoint, is_last = run.random(name), 0, False
    for number in count():
        with suppress(*AWAY):
            checkpoint, is_last = _live(run, node, name, name, checkpoint, random)
            if random.random() < 0.1:
                _live(run, node, name, f"{name}, anew {number}", 0, random)
        if is_last or run.errors:
            return


def _live(run: Run, node: Node, name: str, follower: str, after: int, random: Random) -> tuple[int, bool]:
    """Follow for a while; returns the checkpoint, and whether the end of the stream was taken."""
    actors, event_type = FOLLOWERS[name]
    taken: list[Record] = []
    begin, caught_up, is_last = monotonic(), None, False
    with node.store.follow(
        after=after, actors=f"{actors}*" if actors else None, event_types={event_type} - {""}
    ) as events:
        for _ in range(random.randint(1, 60)):
            got = events.get_batch(random.choice((1, 10, 1000)), timeout=0.1)
            taken += map(record_of, got)
            if caught_up is None and events.is_caught_up:
                caught_up = events.sequence
            is_last = bool(got) and got[-1].event.id == END
            if is_last or run.errors:
                break
        checkpoint = events.sequence
    life = Life(
        follower=follower, node=node.name, begin=begin, end=monotonic(), after=after, checkpoint=checkpoint,
        actors=actors, event_type=event_type, seen=tuple(taken), caught_up=caught_up, is_last=is_last,
    )  # fmt: skip
    run.history.lives.append(life)
    return checkpoint, is_last


class Worker:
    """A process that works on a consumer, and may be killed at any moment for another to take its place."""

    def __init__(self, run: Run, consumer: str) -> None:
        self._run = run
        self._consumer = consumer
        self._number = 0
        self._readers: list[threading.Thread] = []
        self._begin()

    def _begin(self) -> None:
        how, event_type = CONSUMERS[self._consumer]
        self._number += 1
        urls, replicas = ",".join(self._run.urls), self._run.replicas
        self._process = start(checked.work, how, urls, STREAM, replicas, self._consumer, event_type)
        self._readers.append(self._run.thread(partial(self._read, f"{self._consumer}-{self._number}", self._process)))

    def _read(self, name: str, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                if line.endswith("\n"):  # or it was killed
                    at, sequence, event_id = json.loads(line)
                    delivered = Delivered(
                        consumer=self._consumer, process=name, at=at, sequence=sequence, id=sys.intern(event_id)
                    )
                    self._run.history.delivered.append(delivered)

    def replace(self) -> None:
        """Kill the process, and start another."""
        self._process.kill()
        self._end()
        self._begin()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._end()
        if self._process.returncode:
            self._run.errors.append(f"a worker of {self._consumer} ended with {self._process.returncode}")
        for reader in self._readers:
            reader.join(PATIENCE)

    def _end(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(PATIENCE)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        assert self._process.stderr is not None
        with self._process.stderr:
            if said := self._process.stderr.read():
                self._run.errors.append(f"a worker of {self._consumer} said: {said}")
        assert self._process.stdin is not None
        self._process.stdin.close()


@contextmanager
def working_alone(run: Run, node: Node) -> Iterator[None]:
    """Run a handler in this process."""

    def handle(delivery: Delivery) -> None:
        at, event_id = monotonic(), sys.intern(delivery.event.id)
        delivered = Delivered(consumer=ALONE, process="", at=at, sequence=delivery.sequence, id=event_id)
        run.history.delivered.append(delivered)

    with node.store.consumer(ALONE, ack_wait=ACK_WAIT, max_deliver=MAX_DELIVER).run(
        handle, threads=2, timeout=SETTLE
    ) as runner:
        yield
        if runner.closed:
            run.errors.append("the runner has ended")
            runner.wait(0)
