"""What one application has: a bus, and a store that shares its connection.

Making them does nothing; they connect at their first use, in the background. Nothing here refers to the application, so
that one which is dropped is collected, and these with it.
"""

from contextlib import suppress

from ..._runtime.deadline import Deadline
from ..._runtime.exit import at_exit
from ..._runtime.registry import WeakRegistry
from ...bus import EventBus
from ...connection import ConnectionOptions
from ...errors import AetherError, InvalidOptionError
from ...event_types import EventTypes
from ...health import Health
from ...metrics import CloseReport
from ...nats_bus import NATSEventBus
from ...stores.event_store import EventStore
from ...stores.jetstream import JetStreamEventStore
from ...stores.memory import InMemoryEventStore
from ._settings import Settings, named

__all__ = ["Parts"]

_AT_EXIT = 5.0  # seconds to close those of all applications, when the process ends


class Parts:
    """The bus and the store of one application.

    Args:
        owner: The extension that has made them.
        settings: Those of the application.
        types: The classes of the events.

    Attributes:
        owner: The extension.
        settings: The settings.
        bus: The bus.
        store: The store; None if the application wants none.

    Raises:
        InvalidOptionError: A setting is wrong; the error names it.
    """

    def __init__(self, owner: object, settings: Settings, types: EventTypes | None) -> None:
        self.owner = owner
        self.settings = settings
        self.bus: EventBus
        self.store: EventStore | None = None
        with named():
            if settings.is_in_memory:
                self.bus = EventBus(types=types)
                if settings.stream is not None:
                    self.store = _store_in_memory(settings, self.bus, types)
            else:
                options: ConnectionOptions = {**settings.options, "connect": "background"}
                self.bus = bus = NATSEventBus(settings.place(), types=types, **settings.of_a_bus, **options)
                if settings.stream is not None:
                    self.store = _store_on(bus, settings, types)
        for other in _open:
            if other.owner is owner and not other.bus.closed and settings.shares_a_server_with(other.settings):
                _check_apart(settings, other.settings)
        _open.add(self)

    def health(self, timeout: float | None = 0.5) -> Health:
        """Return the health of both.

        Args:
            timeout: Seconds for the question to the server; 0 asks nothing.
        """
        parts = [self.bus.health()]
        if self.store is not None:
            parts.append(self.store.health(timeout=timeout))
        return Health.of("the bus and the store of this app", parts=parts)

    def close(self, timeout: float | None) -> CloseReport:
        """Close both, within so many seconds; return what was left undone."""
        deadline = Deadline(timeout)
        stored = CloseReport() if self.store is None else self.store.close(deadline.timeout_left())
        sent = self.bus.close(deadline.timeout_left())
        return CloseReport(
            unsent=stored.unsent + sent.unsent,
            uncertain=stored.uncertain + sent.uncertain,
            rejected=stored.rejected + sent.rejected,
            handlers_left=stored.handlers_left + sent.handlers_left,
            timed_out=stored.timed_out or sent.timed_out,
        )


def _check_apart(settings: Settings, other: Settings) -> None:
    """Refuse an application if one of two would store what the other one publishes.

    Raises:
        InvalidOptionError: It is so; the error names the setting.
    """
    for setting, said, of_other, taken in (
        ("AETHER_PREFIX", settings.prefix, "AETHER_STREAM", other.subjects),
        ("AETHER_STREAM", settings.subjects, "AETHER_PREFIX", other.prefix),
    ):
        if said == taken:
            raise InvalidOptionError(
                f"{setting} is {said!r}, as {of_other} of another app at this server is: a store would keep what a bus "
                "publishes. Give one of them another name"
            )


def _store_in_memory(settings: Settings, bus: EventBus, types: EventTypes | None) -> InMemoryEventStore:
    kept = settings.of_a_store.get("snapshots_kept", 1)
    announcing = None if settings.namespace is None else bus
    return InMemoryEventStore(bus=announcing, namespace=settings.namespace, snapshots_kept=kept, types=types)


def _store_on(bus: NATSEventBus, settings: Settings, types: EventTypes | None) -> JetStreamEventStore:
    assert settings.stream is not None
    return JetStreamEventStore(
        bus.connection,
        settings.stream,
        namespace=settings.namespace,
        bus=None if settings.namespace is None else bus,
        types=types,
        **settings.of_a_store,
    )


_open: WeakRegistry[Parts] = WeakRegistry()


@at_exit
def _close_all() -> None:
    """Close what is left when the process ends: Flask has no hook for that."""
    deadline = Deadline(_AT_EXIT)
    for parts in _open:
        with suppress(AetherError):  # the others are closed all the same
            parts.close(deadline.timeout_left())
