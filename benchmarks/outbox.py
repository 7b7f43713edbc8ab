"""The relay of an outbox: events per second while writers commit to PostgreSQL, and how long an event takes.

``python -m benchmarks.outbox --events 40000`` lets four processes write, a transaction for each event, and two relays
send meanwhile, each in a process of its own. Then it measures two relays alone, on rows that are there already, and how
long a single event takes from its commit to the store: where the relay is in the writer's process, and where it is not.
"""

import argparse
import multiprocessing
import os
import statistics
import time
from typing import Any

from . import postgres
from .environment import lacking
from .projecting import _await

__all__: list[str] = []

_ACTORS = 1_000
_STREAM = "outbox"


def _opened(port: str) -> tuple[Any, Any, Any]:
    from sqlalchemy import MetaData, create_engine

    from aether_sync.contrib.sqlalchemy import Outbox

    metadata = MetaData()
    outbox = Outbox(metadata)
    return create_engine(f"postgresql+psycopg://{postgres.USER}@127.0.0.1:{port}/postgres"), outbox, metadata


def _write(port: str, events: int, each: int, number: int) -> None:
    """Write events, so many in a transaction."""
    from sqlalchemy.orm import Session

    from aether_sync import Event

    engine, outbox, _ = _opened(port)
    for begin in range(0, events, each):
        with Session(engine) as session, session.begin():
            for n in range(begin, min(begin + each, events)):
                actor = f"actor-{(n * 4 + number) % _ACTORS}"
                outbox.append(session, actor, Event(event_type="Paid", actor_id=actor, data={"amount": n}))


def _relay(port: str, url: str, batch: int) -> None:
    """Relay until this is killed."""
    from aether_sync import JetStreamEventStore

    engine, outbox, _ = _opened(port)
    with JetStreamEventStore(url, _STREAM) as store, outbox.relay(engine, store=store, batch=batch) as relay:
        relay.wait()


def _await_stored(store: Any, events: int) -> None:
    while store.last_sequence(timeout=30.0) < events:
        time.sleep(0.01)


def _under_load(port: str, url: str, store: Any, events: int, batch: int) -> None:
    processes = multiprocessing.get_context("spawn")
    relays = [processes.Process(target=_relay, args=(port, url, batch), daemon=True) for _ in range(2)]
    each = events // 4
    writers = [processes.Process(target=_write, args=(port, each, 1, number), daemon=True) for number in range(4)]
    for process in (*relays, *writers):
        process.start()
    _await_stored(store, 1)
    began = time.perf_counter()
    for process in writers:
        process.join()
    wrote = time.perf_counter() - began
    _await_stored(store, each * 4)
    took = time.perf_counter() - began
    print(f"4 writers, 1 event in a transaction {each * 4 / wrote:10,.0f} events/s committed", flush=True)
    print(f"2 relays meanwhile                  {each * 4 / took:10,.0f} events/s stored", flush=True)
    _stop(relays)


def _backlog(port: str, url: str, store: Any, events: int, batch: int) -> None:
    processes = multiprocessing.get_context("spawn")
    _write(port, events, 500, 0)
    for number in (1, 2):
        already = store.last_sequence(timeout=30.0)
        relays = [processes.Process(target=_relay, args=(port, url, batch), daemon=True) for _ in range(number)]
        for process in relays:
            process.start()
        _await_stored(store, already + 1)
        began, there = time.perf_counter(), store.last_sequence()
        _await_stored(store, already + events)
        took = time.perf_counter() - began
        print(
            f"{number} relay{'s' if number > 1 else ' '} on rows that wait         "
            f"{(already + events - there) / took:10,.0f} events/s stored",
            flush=True,
        )
        _stop(relays)
        if number == 1:
            _write(port, events, 500, 0)


def _stop(relays: list[Any]) -> None:
    for process in relays:
        process.terminate()
        process.join()


def _latency(port: str, store: Any, poll: float, *, is_woken: bool) -> None:
    from sqlalchemy.orm import Session

    from aether_sync import Event

    engine, outbox, _ = _opened(port)
    times = []
    with outbox.relay(engine, store=store, poll=poll), store.follow(after=store.last_sequence()) as follower:
        for n in range(30):
            time.sleep(0.05 + n * 0.011)  # at another moment of the poll each time
            event = Event(event_type="Paid", actor_id=f"late-{is_woken}")
            began = time.perf_counter()
            if is_woken:
                with Session(engine) as session, session.begin():
                    outbox.append(session, event.actor_id, event)
            else:  # no session, so no relay hears of the commit, as in another process
                with engine.begin() as connection:
                    outbox.append(connection, event.actor_id, event)
            next(follower)
            times.append(time.perf_counter() - began)
    where = "relay in the writer's process" if is_woken else f"relay elsewhere, poll={poll:g}"
    times.sort()
    print(
        f"commit to reader, {where:29} {statistics.median(times) * 1e3:7.1f} ms, 9 in 10 within "
        f"{times[26] * 1e3:.1f} ms",
        flush=True,
    )


def main() -> None:
    """Measure what is installed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=40_000)
    parser.add_argument("--batch", type=int, default=500)
    given = parser.parse_args()
    missing = lacking(("sqlalchemy", "psycopg", "postgres"))
    if missing:
        raise SystemExit(missing)
    from aether_sync import JetStreamEventStore, NATSServer

    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.0f}")
    with postgres.running() as port, NATSServer() as server, JetStreamEventStore(server.url, _STREAM) as store:
        _await(port)
        engine, _, metadata = _opened(port)
        metadata.create_all(engine)
        _under_load(port, server.url, store, given.events, given.batch)
        _backlog(port, server.url, store, given.events, given.batch)
        _latency(port, store, 0.25, is_woken=True)
        _latency(port, store, 0.25, is_woken=False)


if __name__ == "__main__":
    main()
