"""What the tests of decisions decide on: accounts, with typed events."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aether_sync import Event, EventTypes

types = EventTypes()


@types.event("Deposited")
@dataclass(frozen=True)
class Deposited:
    amount: int


@types.event("Withdrawn")
@dataclass(frozen=True)
class Withdrawn:
    amount: int
    reason: str = ""


@types.event("Noted")
@dataclass(frozen=True)
class Noted:
    text: str


@dataclass(frozen=True)
class Account:
    balance: int = 0
    notes: tuple[str, ...] = ()


class NotEnoughError(Exception):
    pass


def evolve(state: Account, event: Any) -> Account:
    match event:
        case Deposited(amount):
            return replace(state, balance=state.balance + amount)
        case Withdrawn(amount):
            return replace(state, balance=state.balance - amount)
        case Noted(text):
            return replace(state, notes=(*state.notes, text))
    return state


def deposit(state: Account, amount: int) -> Deposited:
    return Deposited(amount)


def withdraw(state: Account, amount: int) -> Withdrawn:
    if state.balance < amount:
        raise NotEnoughError(f"the account has {state.balance}, and not {amount}")
    return Withdrawn(amount)


def note_if_empty(state: Account) -> Noted | None:
    return None if state.notes else Noted("empty")


def deposit_each(state: Account, *amounts: int) -> Iterator[Deposited]:
    for amount in amounts:
        yield Deposited(amount)


def transfer(states: Mapping[str, Account], amount: int) -> dict[str, object]:
    source, target = states
    return {source: withdraw(states[source], amount), target: [Deposited(amount)]}


# -- the same, by plain events


def evolve_plainly(balance: int, event: Event) -> int:
    assert event.data is not None
    return balance + int(event.data["amount"])


def change(balance: int, actor_id: str, amount: int) -> Event:
    return Event(event_type="Changed", actor_id=actor_id, data={"amount": amount})
