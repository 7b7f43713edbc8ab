"""What tests of a Django project with events need: a bus and stores in memory, and a way to work off what is there.

``AetherTestCase`` is for Django's test runner, and :func:`events_in_memory` for everything else, such as a fixture of
pytest-django's. Nothing here has a thread: handlers are called by the test's own, so they see what its transaction has
written, and all of that is rolled back with it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import DEFAULT_DB_ALIAS
from django.db.transaction import atomic
from django.test import TestCase, TransactionTestCase

from ...bus import EventBus
from ...stores.event_store import EventStore
from ...stores.memory import InMemoryEventStore
from ...subscription import Subscription
from ...testing._published import Published
from ...worker.on_bus import BusHandler
from ...worker.worker import Worker, handlers_of
from ._connections import Ends, get_bus, get_store, replaced
from ._database import own_connections
from ._settings import alias_of_outbox, aliases, settings_of
from .outbox import relay
from .registry import build_worker, registered

__all__ = ["AetherTestCase", "AetherTransactionTestCase", "EventsInMemory", "events_in_memory"]

_MOST_ROUNDS = 1_000  # of handlers that store events for each other


@contextmanager
def events_in_memory() -> Iterator["EventsInMemory"]:
    """Give every alias of ``AETHER`` a bus and a store in memory, as long as the block lasts.

    Views, handlers and the outbox use these by themselves. A store has no events at the begin.
    """
    ends = {}
    for alias in aliases():
        settings = settings_of(alias)
        bus = EventBus(types=settings.types)
        announced = None if settings.namespace is None else bus
        store = InMemoryEventStore(types=settings.types, bus=announced, namespace=settings.namespace)
        ends[alias] = Ends(None, bus, store)
    before = replaced(ends)
    try:
        events = EventsInMemory()  # which lives as long as the block, though nobody may have taken it
        yield events
    finally:
        replaced(before)
        for one in ends.values():
            one.store.close()
            one.bus.close()


class EventsInMemory:
    """The buses and stores of a test, and what works off what is in them. For one thread."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {alias: build_worker(alias, around=()) for alias in aliases()}
        self._heard: list[tuple[BusHandler, Subscription]] = [
            (one, get_bus(alias).subscribe(one.listening.pattern, filter=one.listening.filter))
            for alias, worker in self._workers.items()
            for one in handlers_of(worker)
            if isinstance(one, BusHandler)
        ]
        self._projected: dict[tuple[str, str], int] = {}  # up to which sequence, by alias and name
        self._published = Published(get_bus())
        self._published.start()

    @property
    def bus(self) -> EventBus:
        """The bus of the alias ``default``."""
        return get_bus()

    @property
    def store(self) -> EventStore:
        """The store of the alias ``default``."""
        return get_store()

    @property
    def published(self) -> Published:
        """What is published on :attr:`bus` during the test."""
        return self._published

    def drain(self, *, using: str = DEFAULT_DB_ALIAS) -> int:
        """Send what is in the outbox, and call all handlers and projections with what is there, until nothing is left.

        All of that happens on this thread and its own connections to the databases: within the test's transaction. A
        projection begins with the first event of the test.

        Args:
            using: The alias of the database with the outbox. Its events go to the alias of ``AETHER`` that has it in
                ``RELAY``, and to ``default`` if none has.

        Returns:
            How many events were sent, and how often a handler or a projection was called, all together.

        Raises:
            Exception: What a handler has raised. Its event comes again in the next call.
        """
        calls, sent_to = 0, alias_of_outbox(using)
        with own_connections():
            for _ in range(_MOST_ROUNDS):
                found = relay(sent_to, using=using).drain() + self._hear() + self._consume() + self._project()
                if not found:
                    return calls
                calls += found
        raise AssertionError(f"handlers store and publish events for each other without an end: {calls} calls")

    def _hear(self) -> int:
        calls = 0
        for one, subscription in self._heard:
            for event in subscription.get_batch(_MOST_ROUNDS, timeout=0):
                one.call(event)
                calls += 1
        return calls

    def _consume(self) -> int:
        handlers = [one for worker in self._workers.values() for one in handlers_of(worker)]
        return sum(one.consumer.drain(one.call) for one in handlers if not isinstance(one, BusHandler))

    def _project(self) -> int:
        calls = 0
        for one in registered():
            if one.kind != "projection":
                continue
            place = one.alias, one.name
            wanted = {key: one.options[key] for key in ("actors", "event_types") if key in one.options}
            found = get_store(one.alias).read_all(self._projected.get(place, 0), **wanted)
            for stored in found:
                with atomic(using=one.using):
                    one.function(one.using, stored)
                self._projected[place] = stored.sequence
            calls += len(found)
        return calls


class _InMemory:
    """The part that both test cases have.

    Attributes:
        aether: The buses and stores of the test.
    """

    aether: EventsInMemory

    def setUp(self) -> None:
        """Give the test buses and stores in memory."""
        super().setUp()  # type: ignore[misc]
        self.aether = self.enterContext(events_in_memory())  # type: ignore[attr-defined]

    @property
    def bus(self) -> EventBus:
        """The bus of the alias ``default``."""
        return self.aether.bus

    @property
    def store(self) -> EventStore:
        """The store of the alias ``default``."""
        return self.aether.store

    @property
    def published(self) -> Published:
        """What is published on :attr:`bus` during the test."""
        return self.aether.published

    def drain(self, *, using: str = DEFAULT_DB_ALIAS) -> int:
        """Work off what is there; see :meth:`EventsInMemory.drain`."""
        return self.aether.drain(using=using)


class AetherTestCase(_InMemory, TestCase):
    """``django.test.TestCase`` with a bus and a store in memory: each test is a transaction, which is rolled back.

    What :func:`publish_on_commit` publishes comes when the transaction commits, which it never does: use
    ``with self.captureOnCommitCallbacks(execute=True)``.
    """


class AetherTransactionTestCase(_InMemory, TransactionTestCase):
    """``django.test.TransactionTestCase`` with a bus and a store in memory: transactions really commit."""
