"""Programs with an outbox."""

import os
import signal
import threading
import time
from typing import Any

from sqlalchemy.orm import Session

from aether_sync import Event, InMemoryEventStore


def _place(url: str) -> Any:
    from ..contrib.outbox.places import SQLAlchemyPlace

    return SQLAlchemyPlace(url)


def _append(place: Any, n: int) -> None:
    with Session(place.engine) as session, session.begin():
        place.outbox.append(session, "order-1", Event(event_type="Placed", actor_id="order-1", data={"n": n}))


def _await(store: InMemoryEventStore, number: int) -> None:
    while store.last_sequence() < number:
        time.sleep(0.01)


def _print(store: InMemoryEventStore) -> None:
    print([event.data["n"] for event in store.get_events("order-1") if event.data], flush=True)


def forks(url: str) -> None:
    """Relay, fork, and relay in the child."""
    place = _place(url)
    with InMemoryEventStore() as store:
        relay = place.relay(store, None, poll=0.01)
        relay.start()
        _append(place, 1)
        _await(store, 1)
        child = os.fork()
        if not child:
            assert "is not started" in repr(relay)
            place.engine.dispose(close=False)
            _print(store)
            own = place.relay(store, None, poll=0.01)
            own.start()
            _append(place, 2)
            _await(store, 2)
            _print(store)
            assert own.close()
            os._exit(0)
        assert relay.close()  # its connection is still its own
        _, status = os.waitpid(child, 0)
        assert status == 0
    place.engine.dispose()


def _say(store: InMemoryEventStore) -> None:
    _await(store, 1)
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        time.sleep(0.01)
    print("works", flush=True)


def runs(url: str) -> None:
    """Relay until a signal comes."""
    place = _place(url)
    _append(place, 1)
    with InMemoryEventStore() as store:
        relay = place.relay(store, None, poll=0.01)
        threading.Thread(target=_say, args=(store,)).start()
        relay.run()
        assert relay.closed
    print("ended", flush=True)


def just_ends(url: str) -> None:
    """End without closing anything."""
    place = _place(url)
    _append(place, 1)
    store = InMemoryEventStore()
    place.relay(store, None, poll=0.01).start()
    _await(store, 1)
    print("works", flush=True)
