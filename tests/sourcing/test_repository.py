"""``Repository`` on both stores: decisions, conflicts, commands, snapshots, and what goes wrong in between."""

import os
import re
import signal
import threading
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import IntEnum, StrEnum
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aether_sync import (
    ANY_VERSION,
    ActorState,
    DeadlineExceededError,
    DuplicateIdError,
    Event,
    EventStore,
    EventTypeError,
    InMemoryEventStore,
    InvalidEventError,
    InvalidOptionError,
    JetStreamEventStore,
    NATSServer,
    Repository,
    Snapshot,
    StoreClosedError,
    UnknownOutcomeError,
    VersionConflictError,
    flush_logs,
)
from aether_sync._runtime.threads import NoThreadError
from aether_sync.sourcing import _saver
from aether_sync.sourcing._commands import COMMANDS_KEPT
from aether_sync.sourcing._saver import SnapshotSaver
from aether_sync.sourcing._states import StateSnapshots, UnkeptStateError

from ..support.common import PATIENCE, UNIT, eventually, first_of, run_threads
from ..support.properties import for_all
from ..support.signals import INTERRUPTS, hammer
from . import shop
from .shop import Account, Deposited, Noted, NotEnoughError, Withdrawn

is_posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="no signals and forks as of POSIX here")

Accounts = Repository[Account]


@pytest.fixture(params=["memory", "jetstream"])
def store(request: pytest.FixtureRequest) -> Iterator[EventStore]:
    if request.param == "memory":
        with InMemoryEventStore(types=shop.types) as memory:
            yield memory
    else:
        yield request.getfixturevalue("make_store")(types=shop.types)


@pytest.fixture
def memory() -> Iterator[InMemoryEventStore]:
    with InMemoryEventStore(types=shop.types) as memory:
        yield memory


def accounts_in(store: EventStore, **options: Any) -> Accounts:
    return Repository(store, initial=Account, evolve=shop.evolve, **options)


def values(store: EventStore, actor_id: str = "account-1") -> list[object]:
    return [event.value for event in store.get_events(actor_id)]


class TestDeciding:
    def test_it_stores_what_was_decided_and_returns_the_state_after_it(self, store: EventStore) -> None:
        accounts = accounts_in(store)
        first = accounts.decide("account-1", shop.deposit, 5)
        assert (first.actor_id, first.state, first.version) == ("account-1", Account(5), 1)
        assert [one.event.value for one in first.stored] == [Deposited(5)]
        assert first.sequence == store.last_sequence() > 0
        assert not first.is_repetition
        second = accounts.decide("account-1", shop.withdraw, 3)
        assert (second.state, second.version) == (Account(2), 2)
        assert accounts.get("account-1") == ActorState("account-1", Account(2), 2)
        assert accounts.get("account-2") == ActorState("account-2", Account(), 0)

    def test_nothing_may_be_decided(self, store: EventStore) -> None:
        accounts = accounts_in(store)
        assert accounts.decide("account-1", shop.note_if_empty).version == 1
        again = accounts.decide("account-1", shop.note_if_empty)
        assert (again.version, again.stored, again.sequence) == (1, (), 0)
        assert accounts.decide("account-1", lambda _: []).stored == ()

    def test_several_events_are_stored_in_their_order(self, store: EventStore) -> None:
        accounts = accounts_in(store)
        decided = accounts.decide("account-1", shop.deposit_each, 1, 2, 3)
        assert (decided.state, decided.version, len(decided.stored)) == (Account(6), 3, 3)
        accounts.decide("account-1", lambda _: (Withdrawn(1), Noted("x")))
        assert values(store) == [Deposited(1), Deposited(2), Deposited(3), Withdrawn(1), Noted("x")]

    def test_what_the_decision_raises_is_raised_and_nothing_is_stored(self, store: EventStore) -> None:
        accounts = accounts_in(store)
        with pytest.raises(NotEnoughError, match="has 0, and not 1"):
            accounts.decide("account-1", shop.withdraw, 1)
        assert store.last_sequence() == 0

    def test_after_a_conflict_it_decides_again(self, store: EventStore) -> None:
        accounts = accounts_in(store)
        seen = []

        def decide(state: Account) -> Deposited:
            seen.append(state.balance)
            if len(seen) < 3:  # another writer is first
                store.append("account-1", Deposited(10), expected_version=ANY_VERSION)
            return Deposited(1)

        decided = accounts.decide("account-1", decide)
        assert (decided.state, decided.version, seen) == (Account(21), 3, [0, 10, 20])

    def test_the_time_ends_the_tries(self, memory: InMemoryEventStore) -> None:
        def decide(state: Account) -> Deposited:
            memory.append("account-1", Deposited(10), expected_version=ANY_VERSION)
            return Deposited(1)

        with pytest.raises(VersionConflictError):
            accounts_in(memory).decide("account-1", decide, timeout=0.05)
        assert Deposited(1) not in values(memory)

    def test_a_conflict_that_the_decision_itself_raises_is_not_tried_again(self, memory: InMemoryEventStore) -> None:
        calls = []

        def decide(state: Account) -> None:
            calls.append(state)
            raise VersionConflictError("other-1", 1, 2)

        with pytest.raises(VersionConflictError):
            accounts_in(memory).decide("account-1", decide)
        assert len(calls) == 1

    def test_plain_events_will_do(self) -> None:
        with InMemoryEventStore() as store:
            balances = Repository(store, initial=int, evolve=shop.evolve_plainly, snapshot_every=2)
            for _ in range(5):
                decided = balances.decide("account-1", shop.change, "account-1", 3, command_id="")
            assert (decided.state, decided.version, balances.get("account-1").state) == (15, 5, 15)
            assert balances.close()

    @pytest.mark.concurrent
    @pytest.mark.parametrize("snapshot_every", first_of([7, None]))
    def test_many_threads_decide_on_one_actor(self, store: EventStore, snapshot_every: int | None) -> None:
        with accounts_in(store, snapshot_every=snapshot_every) as accounts:

            def work() -> None:
                for _ in range(2):
                    accounts.decide("account-1", shop.deposit, 1, timeout=PATIENCE)

            run_threads(*[work] * 16)
            assert accounts.get("account-1")[1:] == (Account(32), 32)


class TestWhatADecisionReturns:
    @pytest.mark.parametrize(
        ("decided", "said"),
        [
            ("Deposited", "an event is an object"),
            (b"Deposited", "an event is an object"),
            ({"amount": 1}, "an event is an object"),
            ({Deposited(1), Deposited(2)}, "a set has no order"),
            (7, "int"),
            (Deposited, r"returned the class Deposited: let it return an object of it, Deposited\(\.\.\.\)"),
            ([Noted("x"), Deposited], "returned the class Deposited"),
            ([None], "NoneType"),
            ([[Deposited(1)]], "list"),
            (Event(event_type="X", actor_id="account-2"), "an event of actor 'account-2'"),
            (Event(event_type="X", actor_id="account-1", version=3), "an event of version 3"),
            (Event(event_type="X", actor_id="account-1", command_id="z"), "with the command id 'z'"),
        ],
    )
    def test_is_refused_if_it_is_no_event_of_the_actor(
        self, memory: InMemoryEventStore, decided: object, said: str
    ) -> None:
        with pytest.raises(InvalidEventError, match=said):
            accounts_in(memory).decide("account-1", lambda _: decided, command_id="c")
        assert memory.last_sequence() == 0

    @pytest.mark.parametrize("snapshot_every", [None, 1])
    def test_is_nothing_after_a_change(self, memory: InMemoryEventStore, snapshot_every: int | None) -> None:
        def evolve(state: Basket, event: Any) -> Basket:
            return Basket([*state.things, event.text])

        def decide(state: Basket) -> Iterator[Noted]:
            yield Noted("x")
            state.things.append("y")  # when the generator goes on

        def decide_together(states: dict[str, Basket]) -> dict[str, Noted]:
            states["b"].things.append("y")
            return {"a": Noted("x")}

        def spoil(states: dict[str, Basket]) -> dict[str, Noted]:
            states["b"] = Basket(["the dict is the decision's own"])
            return {"a": Noted("x")}

        with Repository(memory, initial=Basket, evolve=evolve, snapshot_every=snapshot_every) as baskets:
            with pytest.raises(InvalidOptionError, match=r"the decision .*decide\(\) changed the state "):
                baskets.decide("a", decide)
            with pytest.raises(InvalidOptionError, match=r"decide_together\(\) changed the state that it was given"):
                baskets.decide_together(("a", "b"), decide_together)
            assert memory.last_sequence() == 0
            assert baskets.decide_together(("a", "b"), spoil).actors["b"].state == Basket()

    def test_is_no_coroutine(self, memory: InMemoryEventStore) -> None:
        async def decide(state: Account) -> Deposited:
            return Deposited(1)

        async def decide_slowly(state: Account) -> Any:
            yield Deposited(1)

        for one in (decide, decide_slowly):
            with pytest.raises(InvalidEventError, match=f"{one.__qualname__}.* no `async def`"):
                accounts_in(memory).decide("account-1", one)
        with pytest.raises(InvalidEventError, match="no `async def`"):
            accounts_in(memory).decide_together(["account-1"], decide)  # type: ignore[arg-type]

    def test_must_be_what_evolve_can_take_or_is_not_stored(self, memory: InMemoryEventStore) -> None:
        def evolve(state: Account, event: object) -> Account:
            raise LookupError("what is that?")

        accounts = Repository(memory, initial=Account, evolve=evolve)
        with pytest.raises(LookupError) as caught:
            accounts.decide("account-1", shop.deposit, 1)
        assert "event of version 1 of actor 'account-1', of type 'Deposited'" in caught.value.__notes__[0]
        assert memory.last_sequence() == 0

    def test_a_value_needs_types(self) -> None:
        with InMemoryEventStore() as store, pytest.raises(InvalidEventError, match="the store has no types"):
            accounts_in(store).decide("account-1", shop.deposit, 1)

    def test_more_events_than_a_save_takes_are_refused(self, memory: InMemoryEventStore) -> None:
        def endless(state: Account) -> Iterator[Deposited]:
            while True:
                yield Deposited(1)

        with pytest.raises(InvalidOptionError, match="more than 1,000 events"):
            accounts_in(memory).decide("account-1", endless)


class TestDecidingTogether:
    def test_all_or_nothing_is_stored(self, store: EventStore) -> None:
        accounts = accounts_in(store)
        accounts.decide("account-1", shop.deposit, 10)
        decided = accounts.decide_together(("account-1", "account-2"), shop.transfer, 4)
        assert decided.actors == {
            "account-1": ActorState("account-1", Account(6), 2),
            "account-2": ActorState("account-2", Account(4), 1),
        }
        assert [one.event.actor_id for one in decided.stored] == ["account-1", "account-2"]
        assert decided.sequence == store.last_sequence()
        with pytest.raises(NotEnoughError):
            accounts.decide_together(("account-1", "account-2"), shop.transfer, 40)
        assert accounts.decide_together(["account-1"], lambda states: None).stored == ()
        assert accounts.decide_together(["account-1"], lambda states: {"account-1": []}).stored == ()

    def test_it_decides_again_after_a_conflict_of_any(self, store: EventStore) -> None:
        accounts = accounts_in(store)
        seen = []

        def decide(states: dict[str, Account]) -> dict[str, object]:
            seen.append(states["account-2"].balance)
            if len(seen) == 1:
                store.append("account-2", Deposited(10), expected_version=ANY_VERSION)
            return {"account-1": Noted("a"), "account-2": Noted("b")}

        assert accounts.decide_together(("account-1", "account-2"), decide).actors["account-2"].version == 2
        assert seen == [0, 10]

    def test_an_actor_that_is_only_read_is_not_checked(self, store: EventStore) -> None:
        def decide(states: dict[str, Account]) -> dict[str, object]:
            store.append("account-2", Deposited(10), expected_version=ANY_VERSION)
            return {"account-1": Noted("a")}

        assert accounts_in(store).decide_together(("account-1", "account-2"), decide).actors["account-1"].version == 1

    def test_the_same_command_is_decided_once(self, store: EventStore) -> None:
        accounts = accounts_in(store, snapshot_every=2)
        accounts.decide("account-1", shop.deposit, 10)
        both = ("account-1", "account-2")
        first = accounts.decide_together(both, shop.transfer, 4, command_id="c")
        accounts.decide("account-1", shop.deposit, 1)
        again = accounts.decide_together(both, shop.transfer, 4, command_id="c")
        assert again.is_repetition
        assert [one.event for one in again.stored] == [one.event for one in first.stored]
        assert again.sequence == first.sequence
        assert again.actors["account-1"].state == Account(7)
        assert accounts.close()

    def test_an_id_that_is_used_for_other_actors_is_refused(self, store: EventStore) -> None:
        """The store is asked for all that was saved with what is found, whether or not it is a large save."""
        accounts = accounts_in(store, snapshot_every=1)

        def note(states: dict[str, Account], *ids: str) -> dict[str, object]:
            return {one: [Noted("x")] * 60 for one in ids or states}

        first = accounts.decide_together(("order-1", "stock"), note, command_id="c")
        accounts.decide("stock", shop.deposit, 1)
        for ids in (("order-2", "stock"), ("stock",), ("stock", "order-2", "order-3")):
            said = "the command 'c' was decided before, for actor 'order-1' as well"
            with pytest.raises(DuplicateIdError, match=said):
                accounts.decide_together(ids, note, command_id="c")
        with pytest.raises(DuplicateIdError, match="for actor 'order-1' as well"):
            accounts.decide("stock", shop.deposit, 1, command_id="c")
        again = accounts.decide_together(("stock", "order-2", "order-1"), note, command_id="c")
        assert again.is_repetition
        assert [one.event for one in again.stored] == [one.event for one in first.stored]
        assert store.get_latest_version("order-2") == 0
        for _ in range(2):  # some of the actors get no events
            accounts.decide_together(("order-4", "stock", "stock-2"), note, "order-4", "stock", command_id="d")
        assert accounts.decide_together(("order-4", "stock"), note, command_id="d").is_repetition
        assert accounts.get("order-4").version == 60
        for _ in range(2):
            accounts.decide_together(("stock",), note, command_id="e")
        assert accounts.decide("stock", shop.deposit, 1, command_id="e").is_repetition
        assert accounts.close()

    @pytest.mark.parametrize(
        ("ids", "decided", "error", "said"),
        [
            ("account-1", {}, InvalidOptionError, "several actor ids"),
            (5, {}, InvalidOptionError, "several actor ids"),
            ((), {}, InvalidOptionError, "one actor id or more"),
            (("a", "a"), {}, InvalidOptionError, "an actor twice"),
            (("a", 5), {}, InvalidOptionError, "an actor id is"),
            ({}, {}, InvalidOptionError, "one actor id or more"),
            (
                {"a": None},
                {},
                InvalidOptionError,
                "a dict from actor ids to their repositories, and that of 'a' is None",
            ),
            ({"a": Account}, {}, InvalidOptionError, "that of 'a' is"),
            (("a",), [Deposited(1)], InvalidEventError, "let it return a dict"),
            (("a",), {"b": Deposited(1)}, InvalidEventError, "actor 'b', which it was not given"),
            (("a",), {"a": "x"}, InvalidEventError, "an event is an object"),
        ],
    )
    def test_wrong_arguments(
        self, memory: InMemoryEventStore, ids: Any, decided: Any, error: type[Exception], said: str
    ) -> None:
        with pytest.raises(error, match=said):
            accounts_in(memory).decide_together(ids, lambda states: decided)
        assert memory.last_sequence() == 0

    def test_actors_may_be_of_several_kinds(self, store: EventStore) -> None:
        accounts = accounts_in(store, snapshot_every=1)
        amounts = Repository(store, initial=lambda: [0], evolve=lambda state, event: [*state, 1], snapshot_every=1)
        seen = []

        def decide(states: dict[str, Any], text: str) -> dict[str, object]:
            seen.append(dict(states))
            if len(seen) == 1:
                store.append("list-1", Deposited(10), expected_version=ANY_VERSION)
            return {"account-1": Deposited(2), "list-1": [Noted(text), Noted(text)]}

        kinds = {"account-1": accounts, "list-1": amounts}
        decided = amounts.decide_together(kinds, decide, "x", command_id="c")
        assert seen == [{"account-1": Account(), "list-1": [0]}, {"account-1": Account(), "list-1": [0, 1]}]
        assert decided.actors == {
            "account-1": ActorState("account-1", Account(2), 1),
            "list-1": ActorState("list-1", [0, 1, 1, 1], 3),
        }
        assert accounts.decide_together(kinds, decide, "x", command_id="c").is_repetition
        accounts.decide_together(kinds, decide, "x")
        for one in (accounts, amounts):  # each saves the snapshots of its own kind
            assert one.close()
        states = {actor_id: store.get_latest_snapshot(actor_id) for actor_id in kinds}
        assert states["account-1"].state["state"] == {"balance": 2, "notes": []}  # type: ignore[union-attr]
        assert states["list-1"].state["state"] == [0, 1, 1, 1]  # type: ignore[union-attr]
        assert amounts.get("list-1").state == [0, 1, 1, 1, 1, 1]

    def test_all_kinds_are_of_one_store(self, memory: InMemoryEventStore) -> None:
        with InMemoryEventStore(types=shop.types) as other, pytest.raises(InvalidOptionError, match="of another store"):
            accounts_in(memory).decide_together({"a": accounts_in(memory), "b": accounts_in(other)}, shop.transfer, 1)

    @pytest.mark.concurrent
    def test_money_is_neither_made_nor_lost(self, store: EventStore) -> None:
        accounts = accounts_in(store)
        for account in ("account-1", "account-2"):
            accounts.decide(account, shop.deposit, 100)

        def move(*both: str) -> Callable[[], None]:
            def work() -> None:
                for _ in range(3):
                    accounts.decide_together(both, shop.transfer, 2, timeout=PATIENCE)

            return work

        run_threads(*[move("account-1", "account-2")] * 3, *[move("account-2", "account-1")] * 2)
        assert accounts.get("account-1").state == Account(94)
        assert accounts.get("account-2").state == Account(106)


class TestCommands:
    def test_the_same_command_is_decided_once(self, store: EventStore) -> None:
        accounts = accounts_in(store)
        first = accounts.decide("account-1", shop.deposit_each, 1, 2, command_id="c-1")
        assert {one.event.command_id for one in first.stored} == {"c-1"}
        accounts.decide("account-1", shop.deposit, 10, command_id="c-2")
        again = accounts_in(store).decide("account-1", shop.deposit_each, 1, 2, command_id="c-1")
        assert again.is_repetition
        assert [one.event for one in again.stored] == [one.event for one in first.stored]
        assert (again.sequence, again.version, again.state) == (first.sequence, 3, Account(13))
        assert not accounts.decide("account-2", shop.deposit, 1, command_id="c-1").is_repetition

    def test_one_that_a_snapshot_hides_is_known(self, store: EventStore) -> None:
        accounts = accounts_in(store, snapshot_every=2)
        first = accounts.decide("account-1", shop.deposit, 1, command_id="first")
        ids = [f"c-{n}" for n in range(COMMANDS_KEPT - 1)]
        others = [shop.types.to_event(Deposited(1), actor_id="account-1", command_id=one) for one in ids]
        store.append("account-1", *others, expected_version=1)
        accounts.decide("account-1", shop.deposit, 1)
        assert accounts.close()
        assert len(store.load("account-1").events) == 1
        again = accounts.decide("account-1", shop.deposit, 1, command_id="first")
        assert again.is_repetition
        assert again.stored == first.stored
        accounts = accounts_in(store, snapshot_every=1)
        accounts.decide("account-1", shop.deposit, 1, command_id="one more")
        accounts.decide("account-1", shop.deposit, 1, command_id="and another")
        assert accounts.close()
        assert not accounts.decide("account-1", shop.deposit, 1, command_id="first").is_repetition  # forgotten

    def test_a_plain_event_carries_it_too(self) -> None:
        with InMemoryEventStore() as store:
            balances = Repository(store, initial=int, evolve=shop.evolve_plainly)
            for _ in range(2):
                balances.decide("account-1", shop.change, "account-1", 3, command_id="c")
            assert balances.get("account-1").version == 1

    @pytest.mark.concurrent
    def test_many_threads_with_the_same_command_have_one_effect(self, store: EventStore) -> None:
        repositories = [accounts_in(store, snapshot_every=3), accounts_in(store)]
        decided = []

        def work() -> None:
            for n in range(5):
                for one in repositories:
                    decided.append(one.decide("account-1", shop.deposit, 1, command_id=f"c-{n}", timeout=PATIENCE))

        run_threads(*[work] * 6)
        assert repositories[0].get("account-1")[1:] == (Account(5), 5)
        assert sum(not one.is_repetition for one in decided) == 5
        assert len({(one.stored[0].event.command_id, one.sequence) for one in decided}) == 5
        assert repositories[0].close()

    @pytest.mark.parametrize("command_id", [None, 5, b"c", ["c"]])
    def test_an_id_is_a_text(self, memory: InMemoryEventStore, command_id: Any) -> None:
        with pytest.raises(InvalidOptionError, match="command_id must be a str"):
            accounts_in(memory).decide("account-1", shop.deposit, 1, command_id=command_id)


class Grade(IntEnum):
    LOW = 1


class Word(StrEnum):
    YES = "yes"


@dataclass(frozen=True)
class Sets:
    held: frozenset[Any] = frozenset()
    pairs: frozenset[tuple[str, Any]] = frozenset()


@dataclass(frozen=True)
class Times:
    at: datetime | None = None
    amount: float = 0.0
    prices: dict[Grade, Decimal] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Open:
    n: int = 0


class Shut(Open):
    pass


@dataclass(frozen=True, eq=False)
class Door:
    front: Open = field(default_factory=Open)
    others: tuple[Open, ...] = ()


class Room(msgspec.Struct, frozen=True):
    things: dict[str, Any] = {}


PARTS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.sampled_from(Grade)
    | st.decimals() | st.builds(Counter, st.text()) | st.frozensets(st.sampled_from(Grade) | st.integers())
)  # fmt: skip


class TestSnapshots:
    def test_they_are_made_in_the_background_of_a_save(self, store: EventStore) -> None:
        with accounts_in(store, snapshot_every=3) as accounts:
            for n in range(1, 9):
                assert accounts.decide("account-1", shop.deposit, 1).state == Account(n)
                eventually(lambda n=n: n < 4 or store.get_latest_snapshot("account-1"))
            assert accounts.decide("account-1", shop.withdraw, 8).state == Account(0)
        snapshot = store.get_latest_snapshot("account-1")
        assert snapshot is not None
        assert snapshot.state["state"] == {"balance": snapshot.version, "notes": []}
        assert len(store.load("account-1").events) < 6
        assert accounts_in(store, snapshot_every=3).get("account-1") == accounts_in(store).get("account-1")

    def test_one_that_cannot_be_read_is_ignored(self, store: EventStore, caplog: pytest.LogCaptureFixture) -> None:
        accounts = accounts_in(store, snapshot_every=3)
        accounts.decide("account-1", shop.deposit_each, 1, 2)
        good = accounts._snapshots.make("account-1", 2, Account(3), (), ()).state  # type: ignore[union-attr]
        for number, bad in enumerate(
            [{"state": {"balance": "x"}}, {"commands": [1]}, {"commands": None}, {"shape": "other"}, {"state": None}]
        ):
            version = number + 2
            snapshot = Snapshot(actor_id="account-1", version=version, state={**good, **bad})
            assert store.save_snapshot(snapshot)
            assert accounts.get("account-1").state == Account(version + 1)
            accounts.decide("account-1", shop.deposit, 1)
        assert flush_logs()
        assert [one.kind for one in caplog.records] == ["snapshot_ignored"]  # once a burst
        assert store.save_snapshot(Snapshot(actor_id="account-1", version=7, state={"balance": 1000}))
        assert accounts.get("account-1").state == Account(8)
        for _ in range(2):  # the first one would be of the same version as that which is there
            accounts.decide("account-1", shop.deposit, 1)
        assert accounts.close()
        assert store.load("account-1").snapshot.state["shape"] == good["shape"]  # type: ignore[union-attr]

    def test_one_of_another_schema_is_ignored(self, store: EventStore) -> None:
        with accounts_in(store, snapshot_every=1) as old:
            for _ in range(3):
                old.decide("account-1", shop.deposit, 1)

        def evolve(state: Account, event: object) -> Account:
            return Account(7)

        with Repository(store, initial=Account, evolve=evolve, snapshot_every=1, schema_version=2) as new:
            assert new.get("account-1").state == Account(7)

    def test_one_of_a_class_with_other_fields_is_ignored(self, store: EventStore) -> None:
        with accounts_in(store, snapshot_every=1) as old:
            for _ in range(3):
                old.decide("account-1", shop.deposit, 1)

        @dataclass(frozen=True)
        class Account:
            balance: int = 0
            notes: tuple[str, ...] = ()
            changes: int = 0

        def evolve(state: Account, event: object) -> Account:
            return Account(0, (), state.changes + 1)

        assert Repository(store, initial=Account, evolve=evolve, snapshot_every=1).get("account-1").state.changes == 3

    def test_a_failure_is_logged_and_harms_nothing(
        self, memory: InMemoryEventStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        tried = []

        def fail(snapshot: Snapshot, **_: object) -> bool:
            tried.append(snapshot)
            raise DeadlineExceededError("no answer")

        monkeypatch.setattr(memory, "save_snapshot", fail)
        accounts = accounts_in(memory, snapshot_every=1)
        for n in range(1, 21):
            assert accounts.decide("account-1", shop.deposit, 1).state == Account(n)
            if accounts._saver._thread is not None:
                accounts._saver._thread.join(PATIENCE)
        assert accounts.close()
        assert len(tried) < 5  # after a failure it waits a while
        assert flush_logs()
        (record,) = caplog.records
        assert (record.kind, record.levelname) == ("snapshot_failed", "WARNING")  # type: ignore[attr-defined]
        assert "'account-1' at version 1 was not saved" in record.message

    def test_none_is_waited_for(self, memory: InMemoryEventStore, monkeypatch: pytest.MonkeyPatch) -> None:
        go, saved = threading.Event(), []

        def save(snapshot: Snapshot, timeout: float) -> bool:
            go.wait(PATIENCE)
            saved.append(snapshot.version)
            return True

        monkeypatch.setattr(memory, "save_snapshot", save)
        accounts = accounts_in(memory, snapshot_every=1)
        for _ in range(10):
            accounts.decide("account-1", shop.deposit, 1)
        report = accounts.close(timeout=0.01)
        assert report.timed_out
        assert not report
        go.set()
        accounts.close()
        assert saved in ([1], [])  # the others were dropped

    def test_of_each_actor_the_newest_waits(self, memory: InMemoryEventStore, monkeypatch: pytest.MonkeyPatch) -> None:
        go, began, saved = threading.Event(), threading.Event(), []

        def save(snapshot: Snapshot, timeout: float) -> bool:
            began.set()
            go.wait(PATIENCE)
            saved.append((snapshot.actor_id, snapshot.version))
            return True

        monkeypatch.setattr(memory, "save_snapshot", save)
        accounts = accounts_in(memory, snapshot_every=1)
        for _ in range(10):
            accounts.decide("account-1", shop.deposit, 1)
            accounts.decide("account-2", shop.deposit, 1)
        began.wait(PATIENCE)
        go.set()
        assert accounts.close()
        assert saved == [("account-1", 1), ("account-2", 9), ("account-1", 9)]

    def test_a_state_that_json_changes_is_not_kept(
        self, memory: InMemoryEventStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        def evolve(state: dict[str, Any], event: object) -> dict[str, Any]:
            return {"seen": (1, 2)}

        states = Repository(memory, initial=dict, evolve=evolve, snapshot_every=1)
        for _ in range(3):
            states.decide("a", lambda state: Noted("x"))
        assert states.close()
        assert memory.get_latest_snapshot("a") is None
        assert flush_logs()
        assert "it is read from JSON as {'seen': [1, 2]}" in caplog.records[0].message
        assert states.get("a").state == {"seen": (1, 2)}

    def test_a_state_with_other_classes_is_not_kept(
        self, memory: InMemoryEventStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        def evolve(room: Room, event: object) -> Room:
            return Room(Counter(room.things) + Counter("a"))

        states = Repository(memory, initial=Room, evolve=evolve, snapshot_every=1)
        for _ in range(4):
            states.decide("a", lambda state: Noted("x"))
        assert states.close()
        assert memory.get_latest_snapshot("a") is None
        assert states.get("a").state.things == Counter(a=4)
        assert type(states.get("a").state.things) is Counter
        assert flush_logs()
        assert [one.kind for one in caplog.records] == ["snapshot_failed"]  # type: ignore[attr-defined]
        assert "of the class Counter, is read from JSON as {'a': 1}, of dict" in caplog.records[0].message

    @pytest.mark.parametrize(
        ("first", "state", "classes"),
        [
            (Room(), Room(defaultdict(int, a=1)), ("defaultdict", "dict")),
            (Room(), Room({"a": {"b": [1, Grade.LOW]}}), ("Grade", "int")),
            (Room(), Room({"a": [{"b": 1}, OrderedDict()]}), ("OrderedDict", "dict")),
            (Room(), Room({"a": 1, "b": True, "c": bytearray()}), None),
            ({}, {Word.YES: 1}, ("Word", "str")),
            (Sets(), Sets({1, 2}), ("set", "frozenset")),
            (Sets(), Sets(frozenset({5, Grade.LOW})), ("Grade", "int")),
            (Sets(), Sets(pairs=frozenset({("b", 1), ("a", Grade.LOW)})), ("Grade", "int")),
            (Times(), Times(datetime(2026, 7, 1, tzinfo=ZoneInfo("Europe/Berlin"))), ("ZoneInfo", "timezone")),
            (Open(), Shut(1), ("Shut", "Open")),
            (Door(), Door(Shut(1)), ("Shut", "Open")),
        ],
    )
    def test_what_has_other_classes(self, first: Any, state: Any, classes: tuple[str, str] | None) -> None:
        snapshots = StateSnapshots(lambda: first, first, 1, 1)
        with pytest.raises(UnkeptStateError, match="is read from JSON as") as raised:
            snapshots.make("a", 1, state, (), ())
        if classes is not None:
            assert re.search("of the class {}, is read from JSON as .*, of {}$".format(*classes), str(raised.value))

    @pytest.mark.parametrize(
        ("first", "state"),
        [
            (Sets(), Sets(frozenset({1, 5, 700}), frozenset({("b", 1), ("a", 2)}))),
            (Times(), Times(datetime(2026, 7, 1, tzinfo=UTC), 5, {Grade.LOW: Decimal("1.0")})),
            (Room(), Room({"a": {"b": [1, None, "x", 2.5, True]}, "c": [[], {}]})),
            (Door(), Door(Open(5), (Open(6), Open(7)))),
        ],
    )
    def test_what_has_the_same_classes(self, first: Any, state: Any) -> None:
        snapshots = StateSnapshots(lambda: first, first, 1, 1)
        read = snapshots.read(snapshots.make("a", 1, state, (), ()))
        assert not isinstance(read, str)
        assert read.state == state or msgspec.json.encode(read.state) == msgspec.json.encode(state)

    @for_all(
        st.dictionaries(st.text(), st.recursive(PARTS, lambda parts: st.lists(parts) | st.tuples(parts))),
        examples=(12, 100),
    )
    def test_a_snapshot_never_changes_a_state(self, things: dict[str, Any]) -> None:
        snapshots = StateSnapshots(Room, Room(), 1, 1)
        with suppress(UnkeptStateError):
            read = snapshots.read(snapshots.make("a", 1, Room(things), (), ()))
            assert repr(read.state) == repr(Room(things))  # type: ignore[union-attr]

    def test_what_compares_a_state_may_raise(
        self, memory: InMemoryEventStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        @dataclass
        class Moody:
            n: int = 0

            def __eq__(self, other: object) -> bool:
                if self.n:
                    raise LookupError("not today")
                return True

        states = Repository(memory, initial=Moody, evolve=lambda *_: Moody(1), snapshot_every=1)
        for _ in range(3):
            states.decide("a", lambda state: Noted("x"))
        assert states.close()
        assert flush_logs()
        assert "not today" in caplog.records[0].message

    def test_states_may_be_of_a_union(self, memory: InMemoryEventStore) -> None:
        class Empty(msgspec.Struct, tag=True, frozen=True):
            pass

        class Full(msgspec.Struct, tag=True, frozen=True):
            amount: int

        def initial() -> Empty | Full:
            return Empty()

        def evolve(state: Empty | Full, event: Any) -> Empty | Full:
            return Full(event.amount)

        with Repository(memory, initial=initial, evolve=evolve, snapshot_every=1) as boxes:
            for n in range(4):
                boxes.decide("box-1", lambda state, n: Deposited(n), n)
        assert memory.get_latest_snapshot("box-1") is not None
        assert boxes.get("box-1").state == Full(3)

    def test_a_union_that_json_does_not_tell_apart_is_refused(self, memory: InMemoryEventStore) -> None:
        def initial() -> Account | Basket:
            return Account()

        with pytest.raises(InvalidOptionError, match=r"make each class of the union a msgspec\.Struct with tag=True"):
            Repository(memory, initial=initial, evolve=lambda state, event: state, snapshot_every=1)

    @pytest.mark.parametrize("initial", [object, lambda: [object()], lambda: {1: 2}, lambda: float("nan")])
    def test_states_that_json_cannot_hold_are_refused(
        self, memory: InMemoryEventStore, initial: Callable[[], Any]
    ) -> None:
        with pytest.raises(InvalidOptionError, match="snapshot_every needs states that JSON can hold"):
            Repository(memory, initial=initial, evolve=lambda state, event: state, snapshot_every=1)
        Repository(memory, initial=initial, evolve=lambda state, event: state)

    def test_states_that_would_lose_a_field_are_refused(self, memory: InMemoryEventStore) -> None:
        attrs = pytest.importorskip("attrs")
        state = attrs.make_class("State", {"_count": attrs.field(default=0, type=int)}, eq=False)
        with pytest.raises(InvalidOptionError, match="_count of the attrs class State would not be written"):
            Repository(memory, initial=state, evolve=lambda state, event: state, snapshot_every=1)

    def test_a_first_state_with_other_classes_is_refused(self, memory: InMemoryEventStore) -> None:
        with pytest.raises(InvalidOptionError, match=r"of the class Counter, is read from JSON as {}, of dict"):
            Repository(memory, initial=lambda: Room(Counter()), evolve=lambda state, event: state, snapshot_every=1)


@dataclass
class Basket:
    things: list[str] = field(default_factory=list)


class Plain:
    """Neither a dataclass nor of msgspec."""

    def __init__(self, things: tuple[str, ...] = ()) -> None:
        self.things = things

    @cached_property
    def count(self) -> int:
        return len(self.things)


def evolve_plain(state: Plain, event: Any) -> Plain:
    assert state.count < 10
    return Plain((*state.things, event.text))


class TestEvolve:
    def test_it_must_not_change_its_argument(self, memory: InMemoryEventStore) -> None:
        def evolve(state: Basket, event: Any) -> Basket:
            state.things.append(event.text)
            return state

        baskets = Repository(memory, initial=Basket, evolve=evolve)
        with pytest.raises(InvalidOptionError, match=r"evolve, .*evolve\(\), changed the state .* 'Noted'"):
            baskets.decide("basket-1", lambda state: Noted("x"))
        assert memory.last_sequence() == 0

    def test_nor_that_of_an_object_msgspec_does_not_know(self, memory: InMemoryEventStore) -> None:
        class Plain:
            def __init__(self) -> None:
                self.things: list[str] = []

        def evolve(state: Plain, event: Any) -> Plain:
            state.things.append(event.text)
            return state

        with pytest.raises(InvalidOptionError, match="changed the state"):
            Repository(memory, initial=Plain, evolve=evolve).decide("a", lambda state: Noted("x"))

    def test_what_a_cached_property_keeps_is_no_change(self, memory: InMemoryEventStore) -> None:
        repository = Repository(memory, initial=Plain, evolve=evolve_plain)
        for n in range(3):
            assert repository.decide("a", lambda state: Noted("x")).state.count == n + 1
        given = repository.given(Noted("x"))
        assert given.when(lambda state: Noted("y") if state.count else None).then(Noted("y")).count == 2

    def test_a_change_beside_a_cached_property_is_one(self, memory: InMemoryEventStore) -> None:
        def evolve(state: Plain, event: Any) -> Plain:
            assert state.count == 0
            state.things = ("x",)
            return state

        with pytest.raises(InvalidOptionError, match="changed the state"):
            Repository(memory, initial=Plain, evolve=evolve).decide("a", lambda state: Noted("x"))

    def test_it_must_return_a_state(self, memory: InMemoryEventStore) -> None:
        def evolve(state: Account, event: Any) -> Any:
            if event != Deposited(2):
                return state
            return None

        accounts = Repository(memory, initial=Account, evolve=evolve)
        accounts.decide("account-1", shop.deposit, 1)
        with pytest.raises(InvalidOptionError, match="returned None for the event type 'Deposited'"):
            accounts.decide("account-1", shop.deposit, 2)
        assert memory.last_sequence() == 1

    def test_an_event_that_is_not_what_its_type_says_is_named(self, memory: InMemoryEventStore) -> None:
        bad = Event(event_type="Deposited", actor_id="account-1", data={"amount": "x"})
        memory.append("account-1", bad, expected_version=0)
        with pytest.raises(EventTypeError) as caught:
            accounts_in(memory).get("account-1")
        assert caught.value.event_id == bad.id
        assert "version 1 of actor 'account-1'" in caught.value.__notes__[0]


class TestArguments:
    @pytest.mark.parametrize(
        "options",
        [
            {"store": None},
            {"store": EventStore},
            {"initial": 5},
            {"initial": None},
            {"initial": lambda state: state},
            {"evolve": None},
            {"evolve": lambda state: state},
            {"snapshot_every": 0},
            {"snapshot_every": "x"},
            {"snapshot_every": True},
            {"schema_version": -1},
            {"schema_version": None},
            {"initial": lambda: None, "snapshot_every": 1},
        ],
    )
    def test_wrong_ones_are_refused(self, memory: InMemoryEventStore, options: dict[str, Any]) -> None:
        good = {"store": memory, "initial": Account, "evolve": shop.evolve}
        with pytest.raises(InvalidOptionError):
            Repository(**{**good, **options})

    @pytest.mark.parametrize("decision", [None, 5, "x", Deposited(1)])
    def test_a_decision_is_a_function(self, memory: InMemoryEventStore, decision: Any) -> None:
        with pytest.raises(InvalidOptionError, match="a decision is a function"):
            accounts_in(memory).decide("account-1", decision)

    @pytest.mark.parametrize("actor_id", [None, "", 5, b"a"])
    def test_an_actor_has_an_id(self, memory: InMemoryEventStore, actor_id: Any) -> None:
        for call in (accounts_in(memory).get, lambda one: accounts_in(memory).decide(one, shop.deposit, 1)):
            with pytest.raises(InvalidOptionError, match="an actor id is"):
                call(actor_id)

    def test_an_async_evolve_is_refused(self, memory: InMemoryEventStore) -> None:
        async def evolve(state: Account, event: object) -> Account:
            return state

        with pytest.raises(InvalidOptionError, match="evolve must not be an `async def`"):
            Repository(memory, initial=Account, evolve=evolve)  # type: ignore[arg-type]


class TestClosing:
    def test_it_makes_no_more_snapshots_and_works_on(self, memory: InMemoryEventStore) -> None:
        accounts = accounts_in(memory, snapshot_every=1)
        assert accounts.close()
        assert accounts.close()
        for n in range(1, 4):
            assert accounts.decide("account-1", shop.deposit, 1).state == Account(n)
        assert memory.get_latest_snapshot("account-1") is None

    def test_a_closed_store_is_said(self) -> None:
        store = InMemoryEventStore(types=shop.types)
        accounts = accounts_in(store, snapshot_every=1)
        accounts.decide("account-1", shop.deposit, 1)
        store.close()
        with pytest.raises(StoreClosedError):
            accounts.decide("account-1", shop.deposit, 1)
        assert accounts.close()


# -- when things fail


class Forgetful(InMemoryEventStore):
    """Some answers of this store are lost."""

    lost: list[str]  # for each save: "before" or "after" it is stored, "" if it is not lost

    def _lose(self, events: tuple[Event, ...], save: Callable[[], Any]) -> Any:
        how = self.lost.pop(0) if self.lost else ""
        stored = [] if how == "before" else save()
        if how:
            raise UnknownOutcomeError("no answer", events)
        return stored

    def _save(self, events: tuple[Event, ...], deadline: Any) -> Any:
        return self._lose(events, lambda: super(Forgetful, self)._save(events, deadline))

    def _append(self, actor_id: str, events: tuple[Event, ...], expected: Any, deadline: Any) -> Any:
        first = self.get_latest_version(actor_id) if expected is ANY_VERSION else expected
        numbered = tuple(event.replace(version=first + n) for n, event in enumerate(events, 1))
        return self._lose(numbered, lambda: super(Forgetful, self)._append(actor_id, events, expected, deadline))


class TestUnknownOutcomes:
    @pytest.mark.parametrize("lost", [["before"], ["after"], ["after", "after"], ["before", "before", "after"]])
    @pytest.mark.parametrize("together", [False, True])
    def test_the_same_events_are_stored_again(self, lost: list[str], together: bool) -> None:
        with Forgetful(types=shop.types) as store:
            store.lost = []
            accounts = accounts_in(store)
            accounts.decide("account-1", shop.deposit, 10)
            store.lost = lost
            calls = []

            def decide(states: Any) -> Any:
                calls.append(states)
                return {"account-1": Withdrawn(3)} if together else Withdrawn(3)

            if together:
                assert accounts.decide_together(["account-1"], decide).stored[0].event.version == 2
            else:
                assert accounts.decide("account-1", decide).stored[0].event.version == 2
            assert accounts.get("account-1")[1:] == (Account(7), 2)
            assert len(calls) == 1

    @pytest.mark.parametrize("lost", ["before", "after"])
    def test_when_the_time_is_over_the_error_is_raised_and_the_same_command_is_safe(self, lost: str) -> None:
        with Forgetful(types=shop.types) as store:
            store.lost = [lost] * 10_000
            accounts = accounts_in(store)
            with pytest.raises(UnknownOutcomeError):
                accounts.decide("account-1", shop.deposit, 1, command_id="c", timeout=0.02)
            store.lost = []
            decided = accounts.decide("account-1", shop.deposit, 1, command_id="c")
            assert decided.is_repetition == (lost == "after")
            assert accounts.get("account-1")[1:] == (Account(1), 1)

    def test_what_another_writer_has_prevented_is_decided_again(self) -> None:
        with Forgetful(types=shop.types) as store:
            store.lost = ["before"]
            accounts = accounts_in(store)
            seen = []

            def decide(state: Account) -> Deposited:
                seen.append(state.balance)
                if len(seen) == 1:
                    store.lost = []
                    store.append("account-1", Deposited(5), expected_version=ANY_VERSION)
                    store.lost = ["before"]
                return Deposited(1)

            assert accounts.decide("account-1", decide).state == Account(6)
            assert seen == [0, 5]

    def test_another_error_meanwhile_leaves_it_unknown(self) -> None:
        with Forgetful(types=shop.types) as store:
            store.lost = ["after"]
            accounts = accounts_in(store)
            save = store.save_events
            store.save_events = lambda *_, **__: (store.close(), save([]))  # type: ignore[assignment]
            with pytest.raises(UnknownOutcomeError) as caught:
                accounts.decide("account-1", shop.deposit, 1)
            assert isinstance(caught.value.__cause__, StoreClosedError)


@pytest.mark.fault
def test_a_server_that_goes_and_comes(own_server: NATSServer, prefix: str) -> None:
    """Every command takes effect once, whatever error a caller has seen meanwhile."""
    with JetStreamEventStore(own_server.url, prefix, types=shop.types) as store:
        accounts = accounts_in(store, snapshot_every=5)
        accounts.decide("account-1", shop.deposit, 1, command_id="first", timeout=PATIENCE)
        down = threading.Event()

        def work(name: int) -> None:
            for n in range(8):
                if n == 4:
                    down.wait(PATIENCE)
                while True:
                    with suppress(UnknownOutcomeError, DeadlineExceededError):
                        accounts.decide("account-1", shop.deposit, 1, command_id=f"{name}-{n}", timeout=1.0 * UNIT)
                        break

        def break_it() -> None:
            own_server.kill()
            down.set()
            own_server.start()

        run_threads(*[lambda name=name: work(name) for name in range(3)], break_it)  # type: ignore[misc]
        assert accounts.get("account-1", timeout=PATIENCE)[1:] == (Account(25), 25)
        assert accounts.close(PATIENCE)


@is_posix
@pytest.mark.concurrent
def test_an_interrupted_command_takes_effect_once() -> None:
    store = InMemoryEventStore()  # without types: what interrupts them is a wrong event for them
    balances = Repository(store, initial=int, evolve=shop.evolve_plainly)  # threads would be left in threading's limbo
    n = 0

    def work() -> None:
        nonlocal n
        balances.decide("account-1", shop.change, "account-1", 1, command_id=f"c-{n}")
        assert balances.decide("account-1", shop.change, "account-1", 1, command_id=f"c-{n}").is_repetition
        n += 1

    hammer(INTERRUPTS // 3, work)
    balances.decide("account-1", shop.change, "account-1", 1, command_id=f"c-{n}")
    commands = [event.command_id for event in store.get_events("account-1")]
    assert commands == [f"c-{number}" for number in range(len(commands))]
    assert balances.get("account-1").state == len(commands)
    store.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), NoThreadError("no room", is_passing=True)])
def test_a_thread_that_cannot_be_started_is_started_later(
    memory: InMemoryEventStore, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(_: threading.Thread) -> None:
        monkeypatch.setattr(_saver, "start", start)
        raise error

    start = _saver.start
    monkeypatch.setattr(_saver, "start", fail)
    accounts = accounts_in(memory, snapshot_every=1)
    with suppress(KeyboardInterrupt):
        accounts.decide("account-1", shop.deposit, 1)
        accounts.decide("account-1", shop.deposit, 1)
    assert memory.get_latest_snapshot("account-1") is None
    accounts.decide("account-1", shop.deposit, 1)
    assert accounts.close()
    snapshot = memory.get_latest_snapshot("account-1")
    assert snapshot is not None
    assert snapshot.version == 2
    assert accounts.get("account-1").version == 3


@is_posix
def test_a_forked_child_decides_on(memory: InMemoryEventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snapshots that wait in the parent are not the child's, and it saves its own."""
    held, go = threading.Event(), threading.Event()
    save = memory.save_snapshot

    def wait(snapshot: Snapshot, **options: Any) -> bool:
        held.set()
        go.wait(PATIENCE)
        return save(snapshot, **options)

    monkeypatch.setattr(memory, "save_snapshot", wait)
    accounts = accounts_in(memory, snapshot_every=1)
    for _ in range(3):
        accounts.decide("account-1", shop.deposit, 1)
    assert held.wait(PATIENCE)
    pid = os.fork()
    if not pid:
        code = 1
        with suppress(BaseException):
            signal.alarm(20)
            memory.save_snapshot = save  # type: ignore[method-assign]
            accounts.decide("account-1", shop.deposit, 1)
            accounts.decide("account-1", shop.deposit, 1)
            assert accounts.close()
            assert accounts.get("account-1").state == Account(5)
            snapshot = memory.get_latest_snapshot("account-1")
            assert snapshot is not None
            assert snapshot.version > 2
            code = 0
        os._exit(code)
    go.set()
    assert os.waitpid(pid, 0)[1] == 0
    assert accounts.close()


def test_too_many_snapshots_are_dropped(memory: InMemoryEventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    monkeypatch.setattr(memory, "save_snapshot", lambda *_, **__: go.wait(PATIENCE))
    accounts = accounts_in(memory, snapshot_every=1)
    saver: SnapshotSaver = accounts._saver
    for n in range(1_200):
        saver.offer(Snapshot(actor_id=f"a-{n}", version=1, state={}))
    assert len(saver._waiting) <= 1_000
    go.set()
    assert accounts.close()


# -- against a model

COMMANDS = st.one_of(
    st.tuples(st.just("deposit"), st.integers(1, 9), st.sampled_from(["", "c-1", "c-2", "c-3"])),
    st.tuples(st.just("withdraw"), st.integers(1, 9), st.sampled_from(["", "c-1", "c-2", "c-3"])),
    st.tuples(st.just("by another"), st.integers(1, 9), st.just("")),
    st.tuples(st.just("begin anew"), st.none(), st.just("")),
)


@settings(max_examples=40)
@given(st.lists(COMMANDS, max_size=20), st.sampled_from([None, 1, 2, 5]))
def test_it_is_as_its_model(steps: list[tuple[str, int, str]], snapshot_every: int | None) -> None:
    balance, seen = 0, {""}
    with InMemoryEventStore(types=shop.types) as store:
        accounts = accounts_in(store, snapshot_every=snapshot_every)
        for what, amount, command_id in steps:
            if what == "begin anew":
                assert accounts.close()
                accounts = accounts_in(store, snapshot_every=snapshot_every)
            elif what == "by another":
                store.append("account-1", Deposited(amount), expected_version=ANY_VERSION)
                balance += amount
            elif command_id and command_id in seen:
                decision = shop.withdraw if what == "withdraw" else shop.deposit
                decided = accounts.decide("account-1", decision, amount, command_id=command_id)
                assert decided.is_repetition
                assert decided.state == Account(balance)
            elif what == "withdraw" and amount > balance:
                with pytest.raises(NotEnoughError):
                    accounts.decide("account-1", shop.withdraw, amount, command_id=command_id)
            else:
                decision, change = (shop.deposit, amount) if what == "deposit" else (shop.withdraw, -amount)
                balance += change
                seen.add(command_id)
                decided = accounts.decide("account-1", decision, amount, command_id=command_id)
                assert not decided.is_repetition
                assert decided.state == Account(balance)
            assert accounts.get("account-1").state == Account(balance)
        assert accounts.close()
