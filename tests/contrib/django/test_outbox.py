"""The outbox of Django: what a transaction has committed is sent, by real relays to a real server."""

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections, transaction
from django.db.transaction import TransactionManagementError
from django.test import override_settings

from aether_sync import EncodingError, Event, InvalidEventError, InvalidNamespaceError, NATSServer
from aether_sync.contrib.django import bus, get_bus, get_store, outbox, publish_on_commit
from aether_sync.contrib.django.models import OutboxEvent
from aether_sync.contrib.django.registry import build_worker
from aether_sync.errors import OutboxError

from ...support.common import becomes, eventually
from ...support.django import postgres_databases


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def using(request: pytest.FixtureRequest, prefix: str) -> Iterator[str]:
    """The alias of a database."""
    if request.param == "sqlite":
        yield "default"
    else:
        with postgres_databases(request.getfixturevalue("postgres_port"), prefix) as alias:
            yield alias


def placed(number: int, **data: Any) -> Event:
    return Event(event_type="OrderPlaced", actor_id=f"order-{number}", data=data)


def rows(using: str) -> list[tuple[str, str]]:
    return list(OutboxEvent.objects.using(using).values_list("kind", "name"))


def test_what_is_committed_is_stored_and_published(aether: None, using: str) -> None:
    with bus.subscribe("orders") as orders:
        with transaction.atomic(using=using):
            (first,) = outbox.append("order-1", placed(1, qty=3), expected_version=0, using=using)
            outbox.append("order-1", placed(1), placed(1), using=using)
            outbox.publish("orders", placed(2), using=using)
        assert rows(using) == [("append", "order-1"), ("append", "order-1"), ("publish", "orders")]
        assert outbox.relay(using=using).drain() == 4
        assert orders.get(timeout=10.0).actor_id == "order-2"
    found = get_store().get_events("order-1")
    assert [event.version for event in found] == [1, 2, 3]
    assert (found[0].id, found[0].data) == (first.id, {"qty": 3})
    assert rows(using) == []


def test_what_is_rolled_back_is_not_there(aether: None, using: str) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic(using=using):
        outbox.append("order-1", placed(1), using=using)
        raise ZeroDivisionError
    assert rows(using) == []


def test_outside_of_a_transaction_it_is_refused(aether: None) -> None:
    with pytest.raises(TransactionManagementError, match=r"outbox\.append\(\) cannot be used outside of a transaction"):
        outbox.append("order-1", placed(1))
    with transaction.atomic(), pytest.raises(TransactionManagementError, match=r"within transaction.atomic\(using='o"):
        outbox.publish("orders", placed(1), using="other")
    assert rows("default") == rows("other") == []


def test_bad_arguments_leave_the_transaction_as_it_is(aether: None) -> None:
    with transaction.atomic():
        with pytest.raises(InvalidEventError):
            outbox.append("order-2", placed(1))
        with pytest.raises(InvalidNamespaceError):
            outbox.publish("orders.*", placed(1))
        with pytest.raises(EncodingError):
            outbox.append("order-1", placed(1, when={1, 2}))
        outbox.append("order-1", placed(1))
    assert rows("default") == [("append", "order-1")]


def test_a_relay_on_a_thread_sends_at_once_after_a_commit(aether: None, using: str) -> None:
    with outbox.relay(using=using, poll=60.0):
        with transaction.atomic(using=using):
            outbox.append("order-1", placed(1), using=using)
        eventually(lambda: get_store().get_latest_version("order-1") == 1, "the event in the store")
        eventually(lambda: rows(using) == [], "that the row is gone")


@pytest.mark.concurrent
def test_several_relays_share_the_work_and_keep_the_order(aether: None, using: str) -> None:
    def write(number: int) -> None:
        try:
            for _ in range(10):
                with transaction.atomic(using=using):
                    outbox.append(f"order-{number}", placed(number), placed(number), using=using)
        finally:
            connections.close_all()

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    with outbox.relay(using=using, batch=3), outbox.relay(using=using, batch=3):
        for one in writers:
            one.start()
        for one in writers:
            one.join()
        eventually(lambda: rows(using) == [], "that all is sent")
    for number in range(4):
        assert [event.version for event in get_store().get_events(f"order-{number}")] == list(range(1, 21))


def test_a_worker_sends_the_outboxes_of_its_setting(server: NATSServer, prefix: str) -> None:
    given = {"URL": server.url, "STREAM": prefix, "PREFIX": f"{prefix}-bus", "RELAY": ["default", "other"]}
    with override_settings(AETHER={"default": given}), build_worker("default"):
        for using in "default", "other":
            with transaction.atomic(using=using):
                outbox.append(f"order-{using}", Event(event_type="A", actor_id=f"order-{using}"), using=using)
            becomes(lambda: get_store().last_sequence(), 1 if using == "default" else 2)


def test_a_row_that_cannot_be_sent_is_set_aside_and_the_actor_waits(aether: None, using: str) -> None:
    with transaction.atomic(using=using):
        outbox.append("order-1", placed(1), expected_version=7, using=using)
        outbox.append("order-1", placed(1), using=using)
        outbox.append("order-2", placed(2), using=using)
    with closing(outbox.relay(using=using)) as relay:
        assert relay.drain() == 1
        (aside,) = relay.set_aside()
        assert "7" in aside.error
        assert rows(using) == [("append", "order-1")] * 2
        assert relay.retry(aside.id, at_any_version=True) == 1
        assert relay.drain() == 2
    assert get_store().get_latest_version("order-1") == 2


def test_a_row_that_is_discarded_is_not_sent(aether: None, using: str) -> None:
    with transaction.atomic(using=using):
        outbox.append("order-1", placed(1), expected_version=7, using=using)
    with closing(outbox.relay(using=using)) as relay:
        assert relay.drain() == 0
        assert relay.discard(relay.set_aside()[0].id) == 1
    assert rows(using) == []


def test_times_are_in_utc_without_zones_as_well(aether: None) -> None:
    with override_settings(USE_TZ=False):
        with transaction.atomic():
            outbox.append("order-1", placed(1), expected_version=7)
        with closing(outbox.relay()) as relay:
            relay.drain()
            (aside,) = relay.set_aside()
        assert aside.set_aside_at is not None
        assert 0 <= (aside.set_aside_at - aside.created_at).total_seconds() < 60


def test_the_command_sends_once(aether: None, capsys: pytest.CaptureFixture[str]) -> None:
    with transaction.atomic(using="other"):
        outbox.append("order-1", placed(1), using="other")
    call_command("aether_relay", once=True, database="other")
    assert capsys.readouterr().out == "1 events sent\n"
    assert get_store().get_latest_version("order-1") == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"alias": "audit"}, "The setting AETHER has no alias 'audit': there are default."),
        ({"database": "nowhere"}, "The setting DATABASES has no alias 'nowhere': there are default, other"),
        ({"batch": 0}, "batch"),
    ],
)
def test_the_command_names_a_mistake(aether: None, options: dict[str, Any], text: str) -> None:
    with pytest.raises(CommandError, match=text):
        call_command("aether_relay", *([options.pop("alias")] if "alias" in options else []), once=True, **options)


def test_the_command_sends_an_outbox_to_the_alias_whose_workers_do(
    server: NATSServer, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {
        "default": {"URL": server.url, "STREAM": prefix, "PREFIX": f"{prefix}-bus"},
        "audit": {"URL": server.url, "STREAM": f"{prefix}-audit", "PREFIX": f"{prefix}-bus", "RELAY": ["other"]},
    }
    with override_settings(AETHER=given):
        with transaction.atomic(using="other"):
            outbox.append("order-1", placed(1), using="other")
        with pytest.raises(CommandError, match=r"'other' goes to AETHER\['audit'\], whose RELAY has it, and not to"):
            call_command("aether_relay", "default", database="other", once=True)
        call_command("aether_relay", database="other", once=True)
        assert capsys.readouterr().out == "1 events sent\n"
        assert get_store("audit").get_latest_version("order-1") == 1


def test_a_connection_that_commits_nothing_by_itself_is_refused(aether: None, using: str) -> None:
    """A relay would take rows, store their events, and leave the rows where they are."""
    connections[using].ensure_connection()
    connections[using].set_autocommit(False)
    try:
        with pytest.raises(OutboxError, match="AUTOCOMMIT is False"):
            outbox.relay(using=using).drain()
    finally:
        connections[using].rollback()
        connections[using].set_autocommit(True)


def test_a_missing_migration_is_named(aether: None) -> None:
    call_command("migrate", "aether_sync", "zero", database="other", verbosity=0)
    try:
        with pytest.raises(CommandError, match=r"lacks the migrations aether_sync.0001_initial: run manage.py migrate"):
            call_command("aether_relay", once=True, database="other")
        with (
            pytest.raises(Exception, match="no such table: aether_outbox") as raised,
            transaction.atomic(using="other"),
        ):
            outbox.append("order-1", placed(1), using="other")
        assert "run manage.py migrate aether_sync" in raised.value.__notes__[0]
        relay = outbox.relay(using="other")
        with closing(relay), pytest.raises(OutboxError, match=r"lacks the table 'aether_outbox': run "):
            relay.start()
    finally:
        call_command("migrate", "aether_sync", database="other", verbosity=0)


class TestPublishOnCommit:
    def test_it_publishes_what_is_committed(self, aether: None) -> None:
        event = placed(1, qty=1)
        with bus.subscribe("orders") as orders:
            with transaction.atomic():
                publish_on_commit("orders", event)
                assert orders.get_batch(1, timeout=0.05) == []
            assert orders.get(timeout=10.0).data == {"qty": 1}

    def test_it_publishes_nothing_that_is_rolled_back(self, aether: None) -> None:
        with bus.subscribe("orders") as orders:
            with pytest.raises(ZeroDivisionError), transaction.atomic():
                publish_on_commit("orders", placed(1))
                raise ZeroDivisionError
            publish_on_commit("orders", placed(2))
            assert orders.get(timeout=10.0).actor_id == "order-2"

    def test_a_mistake_is_told_at_once(self, aether: None) -> None:
        with transaction.atomic():
            for wrong, event in (("orders.*", placed(1)), ("orders", placed(1, when={1})), ("orders", "an event")):
                with pytest.raises(ValueError, match=r"\w"):
                    publish_on_commit(wrong, event)  # type: ignore[arg-type]

    def test_a_bus_that_cannot_take_it_does_not_harm_the_request(
        self, aether: None, caplog: pytest.LogCaptureFixture
    ) -> None:
        done: list[str] = []
        with transaction.atomic():
            publish_on_commit("orders", placed(1))
            transaction.on_commit(lambda: done.append("the next one"))
            get_bus().close()
        assert done == ["the next one"]
        assert "BusClosedError" in caplog.text
