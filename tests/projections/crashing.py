"""Kills processes that project, again and again, while events are written and the servers are restarted.

``python -m tests.projections.crashing --rounds 200 sqlite`` runs it by hand; there are other databases.
"""

import argparse
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from aether_sync import ANY_VERSION, AetherError, Event, JetStreamEventStore, NATSEventBus, NATSServer

from ..programs import projecting
from ..programs.run import start
from ..support.common import PATIENCE
from ..support.places import (
    Place,
    PostgresPlace,
    SQLAlchemyPlace,
    SQLAlchemyPostgresPlace,
    SQLAlchemySQLitePlace,
    SQLitePlace,
    running_postgres,
)

PLACES: dict[str, type[SQLitePlace] | type[PostgresPlace]] = {
    "sqlite": SQLitePlace,
    "postgres": PostgresPlace,
    "sqlalchemy-sqlite": SQLAlchemySQLitePlace,
    "sqlalchemy-postgres": SQLAlchemyPostgresPlace,
}
_STREAM = "crashes"
_ACTORS = 5


class _Writer:
    """Appends events all the time, alone and together, until it is told to end."""

    def __init__(self, store: JetStreamEventStore, chance: random.Random) -> None:
        self._store = store
        self._chance = chance
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self) -> None:
        while not self._ends.wait(self._chance.uniform(0, 0.02)):
            actor = f"actor-{self._chance.randrange(_ACTORS)}"
            amounts = [self._chance.randrange(-50, 100) for _ in range(self._chance.choice((1, 1, 1, 3, 10)))]
            events = [Event(event_type="Paid", actor_id=actor, data={"amount": amount}) for amount in amounts]
            with suppress(AetherError):  # the server is away
                self._store.append(actor, *events, expected_version=ANY_VERSION, timeout=2.0)

    def end(self) -> None:
        self._ends.set()
        self._thread.join()


class Crashes:
    """Two processes that project, of which one or both are killed in each round.

    Args:
        place: Where they project into.
        server: Where their events come from.
        seed: Of what is left to chance.
    """

    def __init__(self, place: Place, server: NATSServer, seed: int) -> None:
        self._place = place
        self._server = server
        self._chance = random.Random(seed)
        self._processes: list[subprocess.Popen[str]] = []

    def _begin(self) -> subprocess.Popen[str]:
        return start(projecting.projects, self._server.url, _STREAM, *_described(self._place), flags=())

    def run(self, rounds: int) -> int:
        """Run; return how many events were projected."""
        url = self._server.url
        with NATSEventBus(url) as bus, JetStreamEventStore(url, _STREAM) as store:
            store.set_broadcaster(bus, _STREAM)
            store.start()
            reader = store.project("crash", self._place.adapting(self._place.apply), into=self._place.make())
            self._processes = [self._begin(), self._begin()]
            try:
                for number in range(1, rounds + 1):
                    self._round(store, number)
                    last = _last_of(store)
                    reader.wait_for(last, PATIENCE * 3)
                    self._check(store)
            finally:
                for process in self._processes:
                    _kill(process)
            return last

    def _round(self, store: JetStreamEventStore, number: int) -> None:
        writer = _Writer(store, random.Random(self._chance.random()))
        try:
            for _ in range(2):
                time.sleep(self._chance.uniform(0.05, 0.6))
                victims = self._chance.choice(([0], [1], [0, 1]))
                for victim in victims:
                    _kill(self._processes[victim])
                for victim in victims:
                    self._processes[victim] = self._begin()
                if number % 5 == 0:
                    self._server.restart()
        finally:
            writer.end()

    def _check(self, store: JetStreamEventStore) -> None:
        """See that the rows are what a fold over the stream makes."""
        after, sequences = 0, []
        count: Counter[str] = Counter()
        total: Counter[str] = Counter()
        while page := store.read_all(after, limit=1_000):
            for one in page:
                sequences.append(one.sequence)
                count[one.event.actor_id] += 1
                total[one.event.actor_id] += (one.event.data or {})["amount"]
            after = page[-1].sequence
        assert self._place.applied == sequences
        assert self._place.balances == {actor: (count[actor], total[actor]) for actor in count}


def _described(place: Place) -> tuple[str, object]:
    """Return how a process is told of a database."""
    match place:
        case SQLAlchemyPlace():
            return "sqlalchemy", place.url
        case SQLitePlace():
            return "sqlite", place.path
        case PostgresPlace():
            return "postgres", place.conninfo
    raise AssertionError(place)


def _last_of(store: JetStreamEventStore) -> int:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return store.last_sequence()
        except AetherError:  # the server has just come back
            if time.monotonic() > end:
                raise


def _kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@contextmanager
def prepared(kind: str, folder: Path, port: str = "") -> Iterator[tuple[Place, NATSServer]]:
    """Yield an empty database, and a server of its own for the events."""
    with ExitStack() as stack:
        make = PLACES[kind]
        place = make(folder if issubclass(make, SQLitePlace) else port or stack.enter_context(running_postgres()))
        yield place, stack.enter_context(NATSServer(log_file=folder / "nats.log"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("into", choices=PLACES)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(10**9))
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder, prepared(given.into, Path(folder)) as (place, server):
        crashes = Crashes(place, server, given.seed)
        print(f"{given.rounds} rounds, {crashes.run(given.rounds):,} records, each event took effect once")


if __name__ == "__main__":
    main()
