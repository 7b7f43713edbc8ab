"""Buses and stores in memory, for tests of a project: they do what those of the settings do."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import transaction
from django.test import override_settings

from aether_sync import ANY_VERSION, EVENT_STORED, Event
from aether_sync.contrib.django import bus, get_store, handler, on, outbox, publish_on_commit, registry, store
from aether_sync.contrib.django.testing import EventsInMemory, events_in_memory

AETHER: dict[str, dict[str, Any]] = {
    "default": {"NAMESPACE": "stored", "RELAY": ["default"]},
    "audit": {"STREAM": "audit", "RELAY": ["other"]},
}


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was called: a handler of the store of ``audit``, and one of what the default store announces."""
    monkeypatch.setattr(registry, "_declared", [])
    called = []

    @handler("auditor", alias="audit")
    def audit(event: Event) -> None:
        called.append(f"audit {event.actor_id}")

    @on("stored", event_types={EVENT_STORED})
    def announce(event: Event) -> None:
        called.append(f"announce {event.actor_id}")

    return called


@pytest.fixture
def events(called: list[str]) -> Iterator[EventsInMemory]:
    with override_settings(AETHER=AETHER), events_in_memory() as events:
        yield events


def placed(number: int) -> Event:
    return Event(event_type="OrderPlaced", actor_id=f"order-{number}")


def test_the_store_announces_what_it_stores(events: EventsInMemory, called: list[str]) -> None:
    store.append("order-1", placed(1), expected_version=ANY_VERSION)
    assert events.drain() == 1
    assert called == ["announce order-1"]


def test_an_outbox_goes_to_the_alias_that_sends_it(events: EventsInMemory, called: list[str]) -> None:
    with transaction.atomic(using="other"):
        outbox.append("order-1", placed(1), using="other")
    assert events.drain() == 0
    assert events.drain(using="other") == 2
    assert called == ["audit order-1"]
    assert [len(get_store(alias).get_events("order-1")) for alias in AETHER] == [0, 1]


def test_what_is_published_is_recorded_from_the_begin_on(events: EventsInMemory) -> None:
    bus.publish("orders", placed(1))
    with transaction.atomic():
        publish_on_commit("orders", placed(2))
    assert [one.actor_id for one in events.published.events] == ["order-1", "order-2"]
