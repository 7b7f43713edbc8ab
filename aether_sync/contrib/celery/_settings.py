"""The settings of an application that are about a bus and a store, and the two that are made of them."""

from collections.abc import Mapping
from typing import Any

from celery import Celery
from celery.exceptions import ImproperlyConfigured

from ..._arguments import check_known, check_seconds
from ..._bus.store_watch import check_apart
from ...bus import EventBus
from ...connection import OPTIONS
from ...errors import AetherError
from ...event_types import EventTypes
from ...nats_bus import NATSEventBus
from ...stores.event_store import EventStore
from ...stores.jetstream import JetStreamEventStore
from ...stores.memory import InMemoryEventStore

__all__ = ["CLOSE_TIMEOUT", "check_settings", "make_bus_and_store", "settings_of"]

_PREFIX = "aether_"
_IN_MEMORY = ("memory://", "memory:")  # the first as Celery's own brokers and result backends have it
CLOSE_TIMEOUT = 5.0  # seconds: a container is killed 10 seconds after it is told to stop, by default

_OF_A_BUS = ("prefix", "publish_timeout", "on_disconnect")
_OF_A_STORE = ("stream", "namespace", "replicas", "cache_bytes", "snapshots_kept", "cached_actors")
_KNOWN = sorted(f"{_PREFIX}{name}" for name in ("url", "close_timeout", *OPTIONS, *_OF_A_BUS, *_OF_A_STORE))


def settings_of(app: Celery) -> dict[str, Any]:
    """Return what an application's configuration says with ``aether_``, by the names without it."""
    conf = app.conf.finalize()
    prefix = conf.prefix or ""  # such as CELERY_ in the settings of Django, which have others beside
    found: dict[str, Any] = {}
    for mapping in conf.maps[:-1]:  # the last one has Celery's own defaults
        for key in list(mapping):
            name = key.removeprefix(prefix).lower() if key.startswith(prefix) else key
            if name.startswith(_PREFIX):
                found.setdefault(name, mapping[key])
    try:
        check_known("there is no setting", found, _KNOWN)
    except AetherError as error:
        raise ImproperlyConfigured(f"Celery {app.main or 'application'}: {error}") from None
    return {name.removeprefix(_PREFIX): value for name, value in found.items()}


def check_settings(app: Celery, types: EventTypes | None) -> None:
    """Refuse settings that nobody knows, or whose values cannot be used.

    Raises:
        ImproperlyConfigured: The error names the setting.
    """
    make_bus_and_store(app, settings_of(app), types)  # which begins nothing


def make_bus_and_store(
    app: Celery, settings: Mapping[str, Any], types: EventTypes | None
) -> tuple[EventBus, EventStore, float]:
    """Make a bus and a store that share a connection, which the bus closes; return with them the seconds for that.

    Raises:
        ImproperlyConfigured: A value cannot be used.
    """
    try:
        timeout = check_seconds("close_timeout", settings.get("close_timeout", CLOSE_TIMEOUT))
        make = _in_memory if settings.get("url") in _IN_MEMORY else _on_a_server
        return *make(settings, types), timeout
    except AetherError as error:
        raise ImproperlyConfigured(
            f"Celery {app.main or 'application'}, in the settings that begin with {_PREFIX}: {error}"
        ) from error


def _in_memory(settings: Mapping[str, Any], types: EventTypes | None) -> tuple[EventBus, EventStore]:
    if "namespace" not in settings:  # so that a test finds what production refuses
        check_apart(settings.get("stream", "events"), settings.get("prefix", "aether"))
    bus = EventBus(types=types)
    of_store = _given(settings, "namespace", "snapshots_kept")
    return bus, InMemoryEventStore(bus=_announcer(bus, settings), types=types, **of_store)


def _on_a_server(settings: Mapping[str, Any], types: EventTypes | None) -> tuple[EventBus, EventStore]:
    options = {"connect": "background", **_given(settings, *OPTIONS)}
    bus = NATSEventBus(settings.get("url"), types=types, **_given(settings, *_OF_A_BUS), **options)
    of_store = _given(settings, *_OF_A_STORE)
    store = JetStreamEventStore(bus.connection, bus=_announcer(bus, settings), types=types, **of_store)
    check_apart(store.stream, bus.prefix)
    return bus, store


def _given(settings: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: settings[name] for name in names if name in settings}


def _announcer(bus: EventBus, settings: Mapping[str, Any]) -> EventBus | None:
    """Return the bus on which a store announces what it stores; None if it has no namespace for that."""
    return bus if "namespace" in settings else None
