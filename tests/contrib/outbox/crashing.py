"""Kills those who write into an outbox, and the relays that send what is there, again and again, at any moment.

``python -m tests.contrib.outbox.crashing sqlite --rounds 500`` runs it by hand; or ``postgres``. ``--seed`` repeats the
choices, though not the moments.

In each round two writers and two relays work; some are killed by SIGKILL after a random time, and relays also kill
themselves at a random step: before or after a save, a publication, a flush, a statement or a commit. Every fifth round
nats-server is restarted, too, and another program stores events of the same actors. At the end of each round all that
was committed must be in the store exactly once, and in order, and nothing else; and all that was to be published must
have been, at least once.
"""

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from aether_sync import ANY_VERSION, AetherError, Connection, Event, JetStreamEventStore, NATSEventBus, NATSServer

from ...support.common import PATIENCE
from ...support.places import running_postgres
from .places import Place, Step, Written, postgres_place, sqlite_place

PLACES = {"sqlite": lambda folder, _: sqlite_place(folder), "postgres": lambda _, port: postgres_place(port)}

_STREAM, _PREFIX = "crashes", "crash-bus"
_ACTORS = 6  # which all writers append to, and another program
_NAMESPACES = 3
_processes = multiprocessing.get_context("forkserver")


def _write(place: Place, name: str, seed: int) -> None:
    """Write transactions until this is killed; one in four is rolled back."""
    chance = random.Random(seed)
    number, parent = 0, os.getppid()
    while os.getppid() == parent:
        steps = []
        for _ in range(chance.choice((1, 1, 2, 5))):
            number += 1
            kind = chance.choice(("append", "append", "append", "publish"))
            is_strict = kind == "append" and chance.random() < 0.3
            if kind == "publish":
                target = f"crash.{chance.randrange(_NAMESPACES)}"
            else:  # nobody else writes to an actor of its own, so the database knows at which version that is
                target = f"strict-{name}" if is_strict else f"actor-{chance.randrange(_ACTORS)}"
            data = {"writer": name, "n": number, "seed": seed}
            steps.append(Step(kind, target, Event(event_type="Crashed", actor_id=target, data=data), is_strict))
        with suppress(Exception):  # the database was locked for long
            place.write(steps, f"{name}-{seed}", commits=chance.random() < 0.75)
        time.sleep(chance.uniform(0, 0.02))


def _relay(place: Place, url: str, seed: int) -> None:
    """Relay until this is killed, or kills itself."""
    chance = random.Random(seed)
    with (
        Connection(url, connect_timeout=PATIENCE * 3) as connection,
        NATSEventBus(connection, prefix=_PREFIX) as bus,
        JetStreamEventStore(connection, _STREAM) as store,
    ):
        relay = place.relay(store, bus, poll=0.02, batch=chance.choice((3, 20, 500)))
        connect = relay._settings.database.connect
        step = [chance.randrange(400)] if chance.random() < 0.8 else [-1]

        def may_die() -> None:
            step[0] -= 1
            if step[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        def deadly(owner: Any, name: str) -> None:
            real: Callable[..., Any] = getattr(owner, name)

            def work(*args: Any, **how: Any) -> Any:
                may_die()
                found = real(*args, **how)
                may_die()
                return found

            setattr(owner, name, work)

        def connecting() -> Any:
            table = connect()
            for name in ("waiting", "take", "plan", "remove", "set_aside"):
                deadly(table, name)
            transaction = table.transaction

            @contextmanager
            def dying() -> Iterator[None]:
                with transaction():
                    yield
                    may_die()  # before the commit
                may_die()  # after it

            table.transaction = dying
            return table

        relay._settings.database.connect = connecting  # type: ignore[method-assign]
        deadly(store, "save_events")
        deadly(bus, "publish")
        deadly(bus, "flush")
        relay.start(None)
        parent = os.getppid()
        while os.getppid() == parent and not relay.wait(1.0):
            pass


class _Stranger:
    """Another program, which appends to the same actors, past the outbox."""

    def __init__(self, store: JetStreamEventStore, seed: int) -> None:
        self._store = store
        self._chance = random.Random(seed)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._append, daemon=True)
        self._thread.start()

    def _append(self) -> None:
        while not self._ends.wait(self._chance.uniform(0, 0.03)):
            actor = f"actor-{self._chance.randrange(_ACTORS)}"
            with suppress(AetherError):  # the server is away
                event = Event(event_type="Strange", actor_id=actor)
                self._store.append(actor, event, expected_version=ANY_VERSION, timeout=2.0)

    def end(self) -> None:
        self._ends.set()
        self._thread.join()


class Crashes:
    """Two writers and two relays, of which some are killed in each round.

    Args:
        place: Where the outbox is.
        server: Where its events go.
        seed: Of what is left to chance.
    """

    def __init__(self, place: Place, server: NATSServer, seed: int) -> None:
        self._place = place
        self._server = server
        self._chance = random.Random(seed)
        self._running: dict[str, Any] = {}
        self._truth: list[Written] = []
        self._truth_read = self._store_read = 0
        self._stored: list[Event] = []
        self._heard: set[str] = set()
        self.kills = self.suicides = 0

    def _begin(self, name: str) -> None:
        from . import crashing  # not what this module is called while it is the main one

        seed = self._chance.randrange(10**9)
        if name.startswith("writer"):
            process = _processes.Process(target=crashing._write, args=(self._place, name, seed), daemon=True)
        else:
            process = _processes.Process(
                target=crashing._relay, args=(self._place, self._server.url, seed), daemon=True
            )
        process.start()
        self._running[name] = process

    def _kill(self, name: str) -> None:
        process = self._running[name]
        if process.is_alive():
            self.kills += 1
        else:
            self.suicides += 1
            assert process.exitcode == -signal.SIGKILL, f"{name} has ended by itself: {process.exitcode}"
        process.kill()
        process.join()

    def run(self, rounds: int, report: Callable[[str], object] = str) -> int:
        """Run; return how many events were committed."""
        url = self._server.url
        with NATSEventBus(url, prefix=_PREFIX) as bus, JetStreamEventStore(url, _STREAM) as store:
            store.start()
            with bus.subscribe("crash.*") as events:
                hearing = threading.Thread(target=self._hear, args=(events,), daemon=True)
                hearing.start()
                for name in ("writer-1", "writer-2", "relay-1", "relay-2"):
                    self._begin(name)
                try:
                    for number in range(1, rounds + 1):
                        is_cut = number % 5 == 0
                        self._round(store, is_cut)
                        self._check(store, is_cut)
                        if number % 10 == 0:
                            said = f"{len(self._truth):,} committed, {self.kills} killed, {self.suicides} by themselves"
                            report(f"round {number}: {said}")
                finally:
                    for name in self._running:
                        self._running[name].kill()
                        self._running[name].join()
            hearing.join()
        return len(self._truth)

    def _hear(self, events: Any) -> None:
        for event in events:
            self._heard.add(event.id)

    def _round(self, store: JetStreamEventStore, is_cut: bool) -> None:
        stranger = _Stranger(store, self._chance.randrange(10**9)) if self._chance.random() < 0.5 or is_cut else None
        try:
            self._await_commits(self._chance.randrange(1, 60))
            time.sleep(self._chance.uniform(0, 0.1))
            victims = self._chance.choice(
                (["relay-1"], ["relay-2"], ["relay-1", "relay-2"], ["relay-1", "writer-1"], ["writer-2", "relay-2"])
            )
            for name in victims:
                self._kill(name)
            if is_cut:
                self._server.restart()
            for name in victims:
                self._begin(name)
        finally:
            if stranger is not None:
                stranger.end()

    def _await_commits(self, number: int) -> None:
        """Wait until so many calls of the outbox were committed in this round, and a relay has sent a part of them."""
        end = time.monotonic() + PATIENCE * 6
        while (there := len(self._place.truth(self._truth_read))) < number or self._place.waiting() >= there:
            for name, process in self._running.items():
                if not process.is_alive():
                    self._kill(name)
                    self._begin(name)
                    break
            assert time.monotonic() < end, f"only {there} calls were committed"
            time.sleep(0.005)

    # -- what must be true

    def _check(self, store: JetStreamEventStore, is_cut: bool) -> None:
        """Let the relays send all, while nobody writes, and see that it is what was committed."""
        for name in ("writer-1", "writer-2"):
            self._kill(name)
        end = time.monotonic() + PATIENCE * 6
        while self._place.waiting():
            for name in ("relay-1", "relay-2"):
                if not self._running[name].is_alive():
                    self._kill(name)
                    self._begin(name)
            assert time.monotonic() < end, f"{self._place.waiting()} rows still wait"
            time.sleep(0.01)
        new = self._place.truth(self._truth_read)
        self._truth_read = new[-1][0] if new else self._truth_read
        self._truth += [one for _, one in new]
        while page := store.read_all(self._store_read, limit=1_000):
            self._stored += [one.event for one in page if one.event.event_type == "Crashed"]
            self._store_read = page[-1].sequence
        self._check_stored()
        self._check_heard({one.event_id for _, one in new if one.kind == "publish"}, is_cut)
        for name in ("writer-1", "writer-2"):
            self._begin(name)

    def _check_stored(self) -> None:
        committed = Counter(one.event_id for one in self._truth if one.kind == "append")
        stored = Counter(event.id for event in self._stored)
        assert stored == committed, f"too many: {stored - committed}; missing: {committed - stored}"
        last: dict[tuple[str, str, int], int] = {}
        for event in self._stored:
            data: Any = event.data
            by = event.actor_id, data["writer"], data["seed"]
            assert data["n"] > last.get(by, 0), f"{event} comes after {last[by]}"
            last[by] = data["n"]

    def _check_heard(self, new: set[str], is_cut: bool) -> None:
        committed = {one.event_id for one in self._truth if one.kind == "publish"}
        assert self._heard <= committed, "heard what was rolled back"
        if is_cut:  # this subscriber was away for a while, and missed what was published
            self._heard |= new
        end = time.monotonic() + PATIENCE
        while not new <= self._heard:
            assert time.monotonic() < end, f"not heard: {new - self._heard}"
            time.sleep(0.01)


@contextmanager
def prepared(kind: str, folder: Path, port: str = "") -> Iterator[tuple[Place, NATSServer]]:
    """Yield an empty database, and a server of its own for the events."""
    with ExitStack() as stack:
        if kind.endswith("postgres") and not port:
            port = stack.enter_context(running_postgres())
        place = PLACES[kind](folder, port)
        yield place, stack.enter_context(NATSServer(log_file=folder / "nats.log", start_timeout=PATIENCE * 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=PLACES)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.randrange(10**9))
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder, prepared(given.kind, Path(folder)) as (place, server):
        crashes = Crashes(place, server, given.seed)
        committed = crashes.run(given.rounds, lambda text: print(text, flush=True))
        print(
            f"{given.rounds} rounds, {crashes.kills} processes killed and {crashes.suicides} by themselves, "
            f"{committed:,} events committed, each sent; those of the store exactly once, and in order"
        )


_processes.set_forkserver_preload(["tests.contrib.outbox.crashing"])

if __name__ == "__main__":
    # What starts the processes would run this file again in each of them, as their main module.
    sys.modules["__main__"].__spec__ = None
    del sys.modules["__main__"].__file__
    main()
