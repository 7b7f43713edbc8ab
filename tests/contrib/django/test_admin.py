"""The admin: who may look, and what the actions do."""

from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import transaction
from django.test import Client, override_settings
from shop.models import Mail

from aether_sync import ANY_VERSION, Event
from aether_sync.contrib.django import get_projection, get_store, outbox
from aether_sync.contrib.django.models import OutboxEvent
from aether_sync.contrib.django.registry import build_worker

LETTERS = "/admin/aether_sync/deadletter/"


def login(*rights: str) -> Client:
    """Return a client of somebody who may use the admin, and has some rights."""
    user = User.objects.create_user("a", password="b", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=rights))
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture(autouse=True)
def _users() -> Iterator[None]:
    yield
    from django.contrib.sessions.models import Session

    User.objects.all().delete()
    Session.objects.all().delete()


@pytest.fixture
def letter(aether: None) -> int:
    """The sequence of an event that the handler has given up."""
    store = get_store()
    event = Event(event_type="OrderPlaced", actor_id="order-1", data={"fails": True})
    (stored,) = store.append("order-1", event, expected_version=0)
    with build_worker("default"):
        store.consumer("mailer", event_types={"OrderPlaced"}).wait_for(stored.sequence, timeout=20.0)
    assert len(store.consumer("mailer").dead_letters()) == 1
    return stored.sequence


def said(answer: Any) -> str:
    assert answer.status_code == 200
    return unescape(answer.content.decode())


def test_dead_letters_are_shown_to_who_may_see_them(letter: int) -> None:
    client = login("view_deadletter")
    shown = said(client.get(LETTERS))
    assert "there is no address" in shown
    assert "order-1" in shown
    assert "Retry" not in shown
    assert "Discard" not in shown
    assert client.post(LETTERS, {"action": "retry", "chosen": f"default/{letter}/mailer"}).status_code == 403
    User.objects.get().user_permissions.clear()
    assert client.get(LETTERS).status_code == 403


@pytest.mark.slow
def test_one_that_fails_again_stays_and_one_that_does_not_is_gone(letter: int, monkeypatch: pytest.MonkeyPatch) -> None:
    client = login("view_deadletter", "change_deadletter")
    chosen = {"action": "retry", "chosen": f"default/{letter}/mailer"}
    shown = said(client.post(LETTERS, chosen, follow=True))
    assert f"Event {letter} of 'mailer' has failed again: ValueError: there is no address" in shown
    shown = said(client.post(LETTERS, chosen, follow=True))
    assert "1 of 'mailer' cannot be had just now" in shown
    assert Mail.objects.count() == 0


def test_one_that_is_gone_already_is_told(letter: int) -> None:
    get_store().consumer("mailer").discard_dead_letter(letter)
    client = login("view_deadletter", "change_deadletter")
    chosen = [f"default/{letter}/mailer", "default/77/mailer"]
    shown = said(client.post(LETTERS, {"action": "retry", "chosen": chosen}, follow=True))
    assert "2 of 'mailer' gone already" in shown
    assert "cannot be had" not in shown


def test_one_that_is_handled_again_is_gone(letter: int, monkeypatch: pytest.MonkeyPatch) -> None:
    client = login("view_deadletter", "change_deadletter")
    from aether_sync.contrib.django import registry

    (declared,) = [one for one in registry.registered() if one.name == "mailer"]

    def handle(event: Event) -> None:
        Mail.objects.create(order=event.actor_id)

    other = registry.Declared("handler", "mailer", handle, "default", "default", options=declared.options)
    monkeypatch.setattr(registry, "_declared", [other])
    shown = said(client.post(LETTERS, {"action": "retry", "chosen": f"default/{letter}/mailer"}, follow=True))
    assert "1 of 'mailer' handled." in shown
    assert "There are none." in shown
    assert Mail.objects.get().order == "order-1"


def test_one_is_discarded(letter: int) -> None:
    client = login("view_deadletter", "delete_deadletter")
    shown = said(client.post(LETTERS, {"action": "discard", "chosen": f"default/{letter}/mailer"}, follow=True))
    assert "1 of 'mailer' discarded." in shown
    assert get_store().consumer("mailer").dead_letters() == []


@pytest.mark.slow
def test_an_unreachable_server_is_told() -> None:
    client = login("view_deadletter", "view_projectionstate")
    with override_settings(AETHER={"default": {"URL": "nats://127.0.0.1:1"}}):
        assert "errornote" in said(client.get(LETTERS))


def test_projections_have_their_lag(aether: None) -> None:
    store = get_store()
    for _ in range(3):
        store.append("order-1", Event(event_type="OrderPlaced", actor_id="order-1"), expected_version=ANY_VERSION)
    with get_projection("balances") as projection:
        projection.wait_for(3)
    store.append("order-1", Event(event_type="OrderPlaced", actor_id="order-1"), expected_version=3)
    shown = said(login("view_projectionstate").get("/admin/aether_sync/projectionstate/"))
    assert '<td class="field-sequence">3</td><td class="field-lag">1</td>' in shown
    assert "not running" in shown


def test_rows_of_the_outbox_are_sent_again_or_discarded(aether: None) -> None:
    for number in range(2):
        with transaction.atomic():
            actor = f"order-{number}"
            outbox.append(actor, Event(event_type="OrderPlaced", actor_id=actor), expected_version=7)
    relay = outbox.relay()
    relay.drain()
    relay.close()
    first, second = OutboxEvent.objects.order_by("id").values_list("id", flat=True)
    place = "/admin/aether_sync/outboxevent/"
    client = login("view_outboxevent", "change_outboxevent", "delete_outboxevent")
    assert "VersionConflictError" in said(client.get(place))
    shown = said(client.post(place, {"action": "send_again", "_selected_action": [first]}, follow=True))
    assert "1 wait to be sent again." in shown
    shown = said(client.post(place, {"action": "discard", "_selected_action": [second]}, follow=True))
    assert "1 discarded." in shown
    assert list(OutboxEvent.objects.values_list("id", "error")) == [(first, "")]
    shown = said(client.post(place, {"action": "send_again", "_selected_action": [second]}, follow=True))
    assert "1 wait" not in shown, "of one that is gone, nothing is meant"
    assert "Delete selected" not in shown
