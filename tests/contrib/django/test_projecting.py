"""Projections and handlers that write through the models, each in a transaction of its own connection."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import IntegrityError, connection, connections, transaction
from shop.models import Balance, Mail

from aether_sync import (
    ANY_VERSION,
    Event,
    EventStore,
    InvalidOptionError,
    ProjectionStoppedError,
    Worker,
)
from aether_sync.contrib.django import Django, get_projection, get_store
from aether_sync.contrib.django.models import HandledEvent, ProjectionState
from aether_sync.contrib.django.registry import build_worker

from ...support.common import eventually
from ...support.django import postgres_databases


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def using(request: pytest.FixtureRequest, prefix: str) -> Iterator[str]:
    """The alias of a database."""
    if request.param == "sqlite":
        yield "default"
    else:
        with postgres_databases(request.getfixturevalue("postgres_port"), prefix) as alias:
            yield alias


@pytest.fixture
def kept(aether: None) -> EventStore:
    """A store of the test's own."""
    return get_store()


def add(store: EventStore, actor: str = "order-1", **data: Any) -> int:
    event = Event(event_type="OrderPlaced", actor_id=actor, data=data)
    return store.append(actor, event, expected_version=ANY_VERSION)[0].sequence


def count(db: str, stored: Any) -> None:
    row, _ = Balance.objects.using(db).get_or_create(actor=stored.event.actor_id)
    row.events += 1
    row.save()


def test_models_are_written_with_the_checkpoint(kept: EventStore, using: str) -> None:
    last = [add(kept, f"order-{number % 3}") for number in range(9)][-1]
    with kept.project("balances", count, into=Django(using)) as projection:
        projection.wait_for(last)
    assert dict(Balance.objects.using(using).values_list("actor", "events")) == {f"order-{n}": 3 for n in range(3)}
    state = ProjectionState.objects.using(using).get(name="balances")
    assert state.sequence == last


def test_code_that_names_no_database_is_in_the_transaction(kept: EventStore) -> None:
    def apply(db: str, stored: Any) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            Mail.objects.create(order=stored.event.actor_id)
            cursor.execute("SELECT COUNT(*) FROM shop_mail")
            assert cursor.fetchone() == (1,)
        if fails:
            raise ValueError("as if something had failed behind it")

    fails = ["at first"]
    last = add(kept)
    with kept.project("mails", apply, into=Django()) as projection, pytest.raises(ProjectionStoppedError):
        projection.wait_for(last)
    assert Mail.objects.count() == 0
    fails.clear()
    with kept.project("mails", apply, into=Django()) as projection:
        projection.wait_for(last)
    assert Mail.objects.count() == 1


def test_what_is_to_be_done_on_commit_is_done_behind_the_commit(kept: EventStore, using: str) -> None:
    seen: list[int] = []

    def apply(db: str, stored: Any) -> None:
        count(db, stored)
        transaction.on_commit(lambda: seen.append(Balance.objects.using(db).count()), using=db)

    last = add(kept)
    with kept.project("balances", apply, into=Django(using)) as projection:
        projection.wait_for(last)
        eventually(lambda: seen == [1])


@pytest.mark.parametrize("how", ["commit", "caught", "close", "autocommit"])
def test_a_function_that_breaks_the_transaction_is_told(kept: EventStore, using: str, how: str) -> None:
    def apply(db: str, stored: Any) -> None:
        own = connections[db]
        if how == "commit":
            with own.cursor() as cursor:
                cursor.execute("COMMIT")
        elif how == "caught":
            try:
                Balance.objects.using(db).create(actor="twice")
                Balance.objects.using(db).create(actor="twice")
            except IntegrityError:
                return
        elif how == "close":
            own.close()
        else:
            own.set_autocommit(True)

    last = add(kept)
    with kept.project("broken", apply, into=Django(using)) as projection:
        if how == "close":
            eventually(lambda: projection.health().reasons, "that it tries again")
        else:
            with pytest.raises(ProjectionStoppedError):
                projection.wait_for(last)
    assert Balance.objects.using(using).count() == 0


def test_the_thread_has_its_own_connection_again(kept: EventStore) -> None:
    mine = connections["default"]
    link = Django().connect()
    try:
        link.begin()
        assert connections["default"] is not mine
        link.rollback()
        assert connections["default"] is mine
        with transaction.atomic():
            link.begin(rebuilding=True)  # which waits for no other writer
            link.commit()
            assert connection.in_atomic_block
    finally:
        link.close()


def test_a_projection_is_built_anew(kept: EventStore, using: str) -> None:
    last = [add(kept) for _ in range(3)][-1]
    with kept.project("balances", count, into=Django(using)) as projection:
        projection.wait_for(last)
        Balance.objects.using(using).update(events=99)
        projection.rebuild(["shop_balance"])
        assert Balance.objects.using(using).get().events == 3


def test_a_database_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="DATABASES has no alias 'othr': there are 'default', 'other'"):
        Django("othr")


def test_its_text_has_no_secrets() -> None:
    assert repr(Django("other")) == "<Django 'other', sqlite3>"


class TestHandlers:
    def test_one_with_once_has_its_effect_once(self, kept: EventStore) -> None:
        last = add(kept, again=True)
        with build_worker("default"):
            kept.consumer("mailer", event_types={"OrderPlaced"}).wait_for(last, timeout=20.0)
        assert [mail.order for mail in Mail.objects.all()] == ["order-1"]
        note = HandledEvent.objects.get()
        assert (note.consumer, note.stream, note.sequence) == ("mailer", kept.stream, last)  # type: ignore[attr-defined]

    def test_one_that_fails_leaves_nothing(self, kept: EventStore) -> None:
        def handle(db: str, event: Event) -> None:
            Mail.objects.create(order=event.actor_id)
            raise ValueError("there is no address")

        worker = Worker(store=kept)
        worker.consume("failing", idempotent=Django(), max_deliver=2, retry_delay=0.01)(handle)
        last = add(kept)
        with worker:
            kept.consumer("failing", max_deliver=2).wait_for(last)
        assert Mail.objects.count() == HandledEvent.objects.count() == 0
        assert [letter.reason for letter in kept.consumer("failing").dead_letters()] == [
            "ValueError: there is no address"
        ]

    def test_the_worker_projects_too(self, kept: EventStore) -> None:
        last = add(kept)
        with build_worker("default"):
            get_projection("balances").wait_for(last)
            assert get_projection("balances") is get_projection("balances")
        assert Balance.objects.get().events == 1
        with pytest.raises(InvalidOptionError, match=r"there is no @projection\('balance'\) .*: there are 'balances'"):
            get_projection("balance")
