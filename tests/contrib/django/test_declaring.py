"""What a module ``events`` declares: each mistake is told by ``manage.py check``, with the function that has it."""

import datetime
import re
from collections.abc import Callable
from typing import Any

import pytest
from django.core import checks
from django.core.management import CommandError, call_command
from shop.models import Balance, Mail

from aether_sync import Event, InvalidOptionError, StoredEvent
from aether_sync.contrib.django import every, handler, on, projection, registry

NAME = __name__


@pytest.fixture(autouse=True)
def _nothing_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_declared", [])


def work(event: Event) -> None:
    """Stand for a handler."""


def turn() -> None:
    """Stand for periodic work."""


def fill(db: str, stored: StoredEvent) -> None:
    """Stand for a projection."""


def refill(db: str, stored: StoredEvent) -> None:
    """Stand for another one."""


def fill_nothing(stored: StoredEvent) -> None:
    """Stand for a projection that forgets the database."""


def said() -> list[str]:
    """Return what the checks say."""
    found = checks.run_checks(tags=["aether"])
    assert {one.id for one in found} <= {"aether.E004"}
    return [str(one.msg) for one in found]


@pytest.mark.parametrize(
    ("decorator", "function", "written"),
    [
        (handler, work, "@handler('mailer')"),
        (on, work, "@on('orders')"),
        (every, turn, "@every(60)"),
        (projection, fill, "@projection('balances')"),
    ],
)
def test_a_decorator_without_parentheses_is_refused_at_once(decorator: Any, function: Any, written: str) -> None:
    kind = written.partition("(")[0]
    with pytest.raises(InvalidOptionError, match=re.escape(f"{kind} over {NAME}.{function.__name__} ")) as caught:
        decorator(function)
    assert str(caught.value).endswith(f": write {written}")


@pytest.mark.parametrize(
    ("declare", "text"),
    [
        (lambda: handler("m", event_types="OrderPlaced")(work), "event_types is the str 'OrderPlaced'; pass a set"),
        (lambda: handler("m", once=True, using="reprts")(work), "the setting DATABASES has no alias 'reprts'"),
        (lambda: handler("m", using="default")(work), "means nothing without that"),
        (lambda: on("orders..x")(work), "pattern 'orders..x' has an empty token"),
        (lambda: every(0)(turn), "seconds must be a number, more than 0, not 0"),
        (lambda: every("1h")(turn), "more than 0, not '1h'"),  # type: ignore[arg-type]
        (lambda: every(datetime.timedelta(hours=1))(turn), "more than 0, not "),  # type: ignore[arg-type]
        (lambda: handler("m", event_type={"A"})(work), "has no option 'event_type': did you mean event_types"),
        (lambda: handler("m", max_delivery=3)(work), "has no option 'max_delivery': did you mean max_deliver"),
        (lambda: on("a", thread=3)(work), "has no option 'thread': did you mean threads"),
        (lambda: every(60, once_per_clustr=True)(turn), "'once_per_clustr': did you mean once_per_cluster"),
        (lambda: projection("p", once=True)(fill), "has no option 'once': it has actors, event_types, batch"),
        (lambda: projection("p", into="x")(fill), "has no option 'into': it has actors, "),
        (lambda: projection("p")(fill_nothing), "apply is called with two arguments, the database and"),
        (lambda: projection("p", models="shop.Mail")(fill), "'shop.Mail', and no list: write models=['shop.Mail']"),
        (lambda: projection("p", models=Mail)(fill), "and no list: write models=[Mail]"),  # type: ignore[arg-type]
        (lambda: projection("p", models=["shop.Mial"])(fill), "models has 'shop.Mial', which is no model: "),
        (lambda: projection("p", models=["Mail"])(fill), "models has 'Mail', which is no model: "),
        (lambda: projection("p", models=[Event])(fill), "and takes models, as classes"),  # type: ignore[list-item]
        (lambda: projection("p", models=[3])(fill), "models has 3, and takes models"),  # type: ignore[list-item]
        (
            lambda: (projection("p")(fill), projection("p")(refill)),
            f"of {NAME}.refill: there is @projection('p') of {NAME}.fill already",
        ),
    ],
)
def test_a_mistake_is_told_with_its_function(declare: Callable[[], object], text: str) -> None:
    declare()
    (found,) = said()
    assert found.startswith("@")
    assert f" of {NAME}." in found
    assert text in found


def test_what_names_the_function_already_is_told_as_it_is() -> None:
    handler("m")(work)
    handler("m")(work)

    @handler("n")
    async def later(event: Event) -> None: ...

    assert [one.partition(f" {NAME}.")[0] for one in said()] == ["the worker has the handler", "the handler"]


def test_models_may_come_from_any_iterable() -> None:
    models: Any = (one for one in (Balance, "shop.Mail"))
    projection("p", models=models)(fill)
    assert said() == said() == []
    assert registry.registered()[0].find_models() == [Balance, Mail]


def test_the_command_that_rebuilds_tells_of_a_model_that_is_none() -> None:
    projection("p", models=["shop.Mial"])(fill)
    with pytest.raises(CommandError, match=r"@projection\('p'\) of .*fill: models has 'shop.Mial', which is no model"):
        call_command("aether_rebuild", "p")
