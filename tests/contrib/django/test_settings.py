"""The setting ``AETHER``: what ``manage.py check`` says, and what is made of it."""

import os
import threading
from typing import Any

import pytest
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from aether_sync import Event, EventTypes, JetStreamEventStore, NATSEventBus
from aether_sync.contrib.django import bus, get_bus, get_store, store

from ...support.common import FreePort

TYPES = EventTypes()


def said(**given: Any) -> list[tuple[str, str]]:
    """Return what the checks say with ``AETHER`` as given: the id, and text and hint."""
    with override_settings(**given):
        found = checks.run_checks(tags=["aether"])
    return [(str(one.id), f"{one.msg} {one.hint or ''}".strip()) for one in found]


@pytest.mark.parametrize(
    ("given", "number", "text"),
    [
        (None, "E001", "AETHER is None, and no dict."),
        ({}, "E001", "has no alias 'default'. Add one"),
        ({"URL": "nats://127.0.0.1"}, "E001", "Put what is there one level deeper"),
        ({"default": "nats://127.0.0.1"}, "E001", "AETHER['default'] is 'nats://127.0.0.1', and no dict"),
        ({"default": {}, "read-only": {}}, "E001", "'read-only'. Name it as a variable."),
        ({"default": {"STREAMS": "x"}}, "E002", "has the unknown key 'STREAMS'. Did you mean 'STREAM'?"),
        ({"default": {"url": "x"}}, "E002", "the unknown key 'url'. Did you mean 'URL'?"),
        ({"default": {"XYZ": 1}}, "E002", "It may have 'URL', 'STREAM', "),
        ({"default": {"HOST": "x"}}, "E002", "Say where the server is by 'URL', such as 'nats://host:4222'."),
        ({"default": {"NATS_URL": "x"}}, "E002", "Say where the server is by 'URL', such as 'nats://host:4222'."),
        ({"default": {"CONNECT_TIMEOUT": 3}}, "E002", "Put it into 'OPTIONS', as 'connect_timeout'."),
        ({"default": {"OPTIONS": {"url": "x"}}}, "E002", "the unknown key 'url'. Put it beside 'OPTIONS', as 'URL'."),
        (
            {"default": {"OPTIONS": {"conect_timeout": 1}}},
            "E002",
            "AETHER['default']['OPTIONS'] has the unknown key 'conect_timeout'. Did you mean 'connect_timeout'?",
        ),
        ({"default": {"STREAM": 3}}, "E003", "AETHER['default']['STREAM'] is 3, and no str."),
        ({"default": {"TYPES": "nowhere.types"}}, "E003", "['TYPES'] cannot be used: ModuleNotFoundError"),
        ({"default": {"TYPES": "os.path"}}, "E003", "and no EventTypes, nor the dotted path of one"),
        ({"default": {"PREFIX": "a.b"}}, "E003", "AETHER['default']['PREFIX'] cannot be used: "),
        ({"default": {"NAMESPACE": "a.*"}}, "E003", "AETHER['default']['NAMESPACE'] cannot be used: "),
        ({"default": {"STREAM": ""}}, "E003", "AETHER['default']['STREAM'] cannot be used: "),
        ({"default": {"OPTIONS": {"ping_interval": "x"}}}, "E003", "AETHER['default'] cannot be used: ping_interval"),
        ({"default": {"RELAY": "default"}}, "E003", "['RELAY'] is 'default', and no list. Write ['default']."),
        ({"default": {"RELAY": ("default",)}}, "E003", "and no list. Write ['default']."),
        ({"default": {"RELAY": ["othr"]}}, "E003", "has 'othr', which is no alias of DATABASES: there are "),
        ({"default": {"STREAM": "a", "PREFIX": "a"}}, "E003", "would keep what a bus with prefix 'a' publishes"),
        (
            {"default": {"RELAY": ["default"]}, "audit": {"STREAM": "audit", "RELAY": ["other", "default"]}},
            "E003",
            "AETHER['default']['RELAY'] and AETHER['audit']['RELAY'] have both 'default': each event of its outbox",
        ),
        ({"default": {"PREFIX": "events"}}, "E003", "AETHER['default']['STREAM'] (by default 'events') and "),
        ({"default": {"URL": "http://somewhere"}}, "E003", "AETHER['default']['URL'] cannot be used: "),
        ({"default": {"URL": 4222}}, "E003", "AETHER['default']['URL'] cannot be used: "),
    ],
)  # fmt: skip
def test_a_mistake_is_named(given: Any, number: str, text: str) -> None:
    found = said(AETHER=given)
    assert len(found) == 1
    assert found[0][0] == f"aether.{number}"
    assert text in found[0][1]
    with override_settings(AETHER=given), pytest.raises(ImproperlyConfigured):
        get_bus()


def test_without_the_setting_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings

    with override_settings():
        del settings.AETHER
        assert checks.run_checks(tags=["aether"]) == []


def test_a_server_that_is_away_is_no_mistake_but_for_a_deployment() -> None:
    free = FreePort()
    given = {"default": {"URL": f"nats://127.0.0.1:{free.number}", "OPTIONS": {"connect_timeout": 0.2}}}
    free.close()
    assert said(AETHER=given) == []
    with override_settings(AETHER=given):
        found = checks.run_checks(tags=["aether"], include_deployment_checks=True)
    assert [one.id for one in found] == ["aether.E005"]
    assert "The server of AETHER['default'] is not reached: " in found[0].msg


def test_a_server_that_is_there_passes(aether: None) -> None:
    assert checks.run_checks(tags=["aether"], include_deployment_checks=True) == []


def test_an_alias_that_is_not_there_is_named() -> None:
    with override_settings(AETHER={"default": {}, "audit": {}}), pytest.raises(ImproperlyConfigured) as raised:
        get_store("audits")
    assert str(raised.value) == "The setting AETHER has no alias 'audits': did you mean 'audit'?"


def test_each_alias_has_a_bus_and_a_store_of_a_process() -> None:
    given = {
        "default": {"URL": "nats://127.0.0.1:1", "STREAM": "orders", "PREFIX": "shop", "NAMESPACE": "orders"},
        "audit": {"STREAM": "audit", "TYPES": f"{__name__}.TYPES", "OPTIONS": {"user": "me", "password": "secret"}},
    }
    with override_settings(AETHER=given):
        shop, kept = get_bus(), get_store("audit")
        assert isinstance(shop, NATSEventBus)
        assert isinstance(kept, JetStreamEventStore)
        assert (shop.prefix, kept.stream, kept.types) == ("shop", "audit", TYPES)
        assert get_bus() is shop
        assert get_store("audit") is kept
        assert bus.node_id == shop.node_id
        assert store.types is None
        assert not shop.connection.started
    assert shop.closed
    assert kept.closed


def test_threads_that_come_first_get_the_same() -> None:
    with override_settings(AETHER={"default": {}}):
        begin, found = threading.Barrier(8), []

        def work() -> None:
            begin.wait()
            found.append(get_bus())

        threads = [threading.Thread(target=work) for _ in range(8)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert len({id(one) for one in found}) == 1


def test_publishing_waits_for_no_server() -> None:
    free = FreePort()
    with override_settings(AETHER={"default": {"URL": f"nats://127.0.0.1:{free.number}"}}):
        free.close()
        bus.publish("orders", Event(event_type="OrderPlaced", actor_id="order-1"))
        own = get_bus()
        assert isinstance(own, NATSEventBus)
        own.connection.close(0)  # what is not sent is not waited for


def test_a_forked_child_has_its_own(aether: None, server: Any) -> None:
    with bus.subscribe("orders") as orders:
        child = os.fork()
        if not child:
            try:
                get_bus().publish("orders", Event(event_type="OrderPlaced", actor_id=f"{os.getpid()}"))
                get_bus().close()
            finally:
                os._exit(0)
        assert orders.get(timeout=10.0).actor_id == str(child)
        os.waitpid(child, 0)
