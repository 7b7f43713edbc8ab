"""``given().when().then()``: what it compares, and how it shows what differs."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from aether_sync import (
    Event,
    EventTypes,
    InMemoryEventStore,
    InvalidEventError,
    InvalidOptionError,
    Repository,
    Scenarios,
)

from . import shop
from .shop import Account, Deposited, Noted, NotEnoughError, Withdrawn

accounts = Scenarios(initial=Account, evolve=shop.evolve, types=shop.types)


@pytest.fixture(params=["a repository", "scenarios with types", "scenarios without"])
def given(request: pytest.FixtureRequest) -> Callable[..., Any]:
    if request.param == "a repository":
        return Repository(InMemoryEventStore(types=shop.types), initial=Account, evolve=shop.evolve).given
    if request.param == "scenarios with types":
        return accounts.given
    return Scenarios(initial=Account, evolve=shop.evolve).given


def text_of(work: Callable[[], object]) -> str:
    with pytest.raises(AssertionError) as caught:
        work()
    return str(caught.value)


def test_what_was_decided_is_compared(given: Callable[..., Any]) -> None:
    assert given(Deposited(5)).state == Account(5)
    assert given(Deposited(5)).when(shop.withdraw, 3).then(Withdrawn(3)) == Account(2)
    assert given().when(shop.deposit_each, 1, 2).then(Deposited(1), Deposited(2)) == Account(3)
    assert given(Noted("x")).when(shop.note_if_empty).then_nothing() == Account(0, ("x",))
    assert "has 0" in str(given().when(shop.withdraw, 3).then_raises(NotEnoughError))
    assert given().when(shop.withdraw, 3).then_raises(Exception, match=r"has \d, and not 3")


def test_the_difference_is_shown_line_by_line(given: Callable[..., Any]) -> None:
    decided = given(Deposited(5)).when(lambda _: [Withdrawn(3), Noted("x"), Noted("y")])
    assert text_of(lambda: decided.then(Withdrawn(4), Noted("x"))).splitlines()[1:] == [
        "- expected",
        "+ returned",
        "",
        "- Withdrawn(amount=4, reason='')",
        "?                  ^",
        "+ Withdrawn(amount=3, reason='')",
        "?                  ^",
        "  Noted(text='x')",
        "+ Noted(text='y')",
    ]
    assert "+ Withdrawn(amount=3, reason='')" in text_of(decided.then_nothing)
    assert "- Noted(text='y')" in text_of(lambda: given().when(shop.withdraw, 0).then(Noted("y")))


def test_the_order_counts(given: Callable[..., Any]) -> None:
    assert text_of(lambda: given().when(shop.deposit_each, 1, 2).then(Deposited(2), Deposited(1)))


def test_a_long_value_is_shown_field_by_field() -> None:
    long = "x" * 90
    text = text_of(lambda: accounts.given().when(lambda _: Withdrawn(3, long)).then(Withdrawn(4, long)))
    assert "- " + "    amount=4," in text
    assert f"      reason='{long}'," in text


def test_other_errors_are_shown(given: Callable[..., Any]) -> None:
    decided = given().when(shop.withdraw, 3)
    text = text_of(lambda: decided.then_raises(LookupError))
    assert "withdraw() did not raise LookupError, but NotEnoughError: the account has 0" in text
    assert "- has 9\n+ the account has 0" in text_of(lambda: decided.then_raises(NotEnoughError, "has 9"))
    text = text_of(lambda: given().when(shop.deposit, 3).then_raises(NotEnoughError))
    assert text.endswith("did not raise NotEnoughError, and returned:\n  Deposited(amount=3)")
    text = text_of(lambda: given(Noted("x")).when(shop.note_if_empty).then_raises(NotEnoughError))
    assert text.endswith("and returned:\n  nothing")


def test_an_error_that_is_not_expected_is_raised_itself(given: Callable[..., Any]) -> None:
    for then in (given().when(shop.withdraw, 3).then_nothing, lambda: given().when(shop.withdraw, 3).then(Noted("x"))):
        with pytest.raises(NotEnoughError):
            then()


def test_events_are_compared_by_what_they_say() -> None:
    balances = Scenarios(initial=int, evolve=shop.evolve_plainly)
    changed = Event(event_type="Changed", actor_id="account-1", data={"amount": 3})
    other = changed.replace(data={"amount": 4})
    assert balances.given(changed, changed.replace(version=7)).state == 6
    assert balances.given(changed).when(shop.change, "account-1", 4).then(other) == 7
    text = text_of(lambda: balances.given().when(shop.change, "account-1", 3).then(other))
    assert "- Event('Changed' of 'account-1', {'amount': 4})" in text
    assert text_of(lambda: balances.given().when(shop.change, "account-2", 3).then(changed))


def test_values_are_what_is_read_from_a_store() -> None:
    types = EventTypes()

    @types.event("Tagged", version=2)
    @dataclass
    class Tagged:
        tags: Any

    @types.upcast("Tagged", version=1)
    def upcast(data: dict[str, Any]) -> dict[str, Any]:
        return {"tags": [data["tag"]]}

    tags: Scenarios[Any] = Scenarios(initial=list, evolve=lambda state, value: [*state, value.tags], types=types)
    old = Event(event_type="Tagged", actor_id="a", data={"tag": "x"})
    assert tags.given(old, Tagged(("y", "z"))).state == [["x"], ["y", "z"]]


@dataclass
class Basket:
    things: list[str] = field(default_factory=list)


def add(state: Basket, event: Any) -> Basket:
    return replace(state, things=[*state.things, event.text])


def test_an_evolve_that_changes_its_argument_is_found_at_any_event() -> None:
    def evolve(state: Basket, event: Any) -> Basket:
        if len(state.things) == 2:
            state.things.append("!")
        return add(state, event)

    baskets = Scenarios(initial=Basket, evolve=evolve)
    assert baskets.given(Noted("x"), Noted("y"))
    with pytest.raises(InvalidOptionError, match="changed the state that it was given with the event type 'Noted'"):
        baskets.given(Noted("x"), Noted("y"), Noted("z"))
    with pytest.raises(InvalidOptionError, match="changed the state"):
        baskets.given(Noted("x"), Noted("y")).when(lambda state: Noted("z")).then(Noted("z"))


def test_a_decision_that_changes_the_state_is_found() -> None:
    def decide(state: Basket) -> None:
        state.things.append("x")

    decided = Scenarios(initial=Basket, evolve=add).given().when(decide)
    with pytest.raises(InvalidOptionError, match=r"decide\(\) changed the state that it was given"):
        decided.then_nothing()


def test_wrong_arguments() -> None:
    for options in ({"types": 5}, {"initial": 5}, {"evolve": len}):
        with pytest.raises(InvalidOptionError):
            Scenarios(**{"initial": Account, "evolve": shop.evolve, **options})
    with pytest.raises(InvalidEventError):
        accounts.given("Deposited")
    with pytest.raises(InvalidOptionError, match="a decision is a function"):
        accounts.given().when(5)  # type: ignore[arg-type]
    with pytest.raises(InvalidEventError, match="an event is an object"):
        accounts.given().when(lambda _: "Deposited").then_nothing()
    decided = accounts.given().when(shop.withdraw, 3)
    for kind, match in ((5, None), (str, None), (ValueError, "("), (ValueError, 5), ("x", None)):
        with pytest.raises(InvalidOptionError):
            decided.then_raises(kind, match)  # type: ignore[arg-type]


def test_a_list_of_events_is_told_to_be_events(given: Callable[..., Any]) -> None:
    for wrong in ([Deposited(1)], (Deposited(1), Deposited(2)), []):
        with pytest.raises(InvalidEventError, match=r"given\(\) takes events one by one, .*given\(\*events\)"):
            given(wrong)
        with pytest.raises(InvalidEventError, match=r"then\(\) takes events one by one, .*then\(\*events\)"):
            given().when(shop.deposit, 1).then(wrong)


def test_a_class_is_no_event(given: Callable[..., Any]) -> None:
    with pytest.raises(InvalidEventError, match="returned the class Deposited: let it return an object"):
        given().when(lambda _: Deposited).then(Deposited(1))


def test_pytest_shows_the_line_of_the_test_and_none_of_ours() -> None:
    works: list[Callable[[], object]] = [
        lambda: accounts.given(Deposited(5)).when(shop.deposit, 3).then(Deposited(4)),
        lambda: accounts.given().when(shop.deposit, 3).then_nothing(),
        lambda: accounts.given().when(shop.deposit, 3).then_raises(ValueError),
    ]
    for work in works:
        with pytest.raises(AssertionError) as caught:
            work()
        shown = caught.traceback.filter(caught)
        assert {Path(one.path) for one in shown} == {Path(__file__)}
