"""Programs with consumers of a store in memory, which fork or end in the midst of it."""

import os
import threading

from aether_sync import Event, InMemoryEventStore

from ..support.common import PATIENCE, UNIT
from .consumers import see_that_they_are_the_parents

kept: list[object] = []  # to the end of the process


def _store() -> InMemoryEventStore:
    store = InMemoryEventStore()
    store.save_events(Event(event_type="Done", actor_id="a", version=n) for n in range(1, 6))
    return store


def forks() -> None:
    """Fork with an open consumption and a running runner; the child goes on with its copy of the consumers."""
    store = _store()
    handles, go_on = threading.Event(), threading.Event()
    consumer, running = store.consumer("c", ack_wait=0.3 * UNIT), store.consumer("r", ack_wait=0.3 * UNIT)
    with consumer.iterate() as events, running.run(lambda _: (handles.set(), go_on.wait(PATIENCE))) as runner:
        events.get(timeout=PATIENCE).ack()
        handles.wait(PATIENCE)
        child = os.fork()
        if not child:
            see_that_they_are_the_parents(events, runner)
            assert consumer.drain(lambda _: None) == 4
            had: list[int] = []
            with running.run(lambda one: had.append(one.sequence)):
                running.wait_for(5, timeout=PATIENCE)  # what the parent works on comes again
            assert had == [1, 2, 3, 4, 5]
            store.close()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert not runner.closed
        assert not events.closed
        go_on.set()
        running.wait_for(5, timeout=PATIENCE)
        assert consumer.drain(lambda _: None) == 4
    store.close()


def ends(how: str) -> None:
    """Leave a normal thread to iterate, or a runner."""
    store, begun = _store(), threading.Event()
    kept.append(store)
    if how == "runs":
        kept.append(store.consumer("c").run(lambda _: begun.set()))
    else:
        events = store.consumer("c").iterate()
        threading.Thread(target=lambda: [(one.ack(), begun.set()) for one in events]).start()
    begun.wait(PATIENCE)
    print("ended")
