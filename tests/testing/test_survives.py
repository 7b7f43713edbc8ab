"""``assert_survives``: handlers with known faults are caught with a minimal history, and right ones pass."""

import os
import random
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy
import pytest

from aether_sync import (
    Consumer,
    DeadlineExceededError,
    Delivery,
    DuplicateIdError,
    Event,
    EventTypes,
    InvalidEventError,
    InvalidOptionError,
    NATSServer,
    SQLite,
)
from aether_sync.stores.projections.base import BrokenTransactionError
from aether_sync.testing import Survival, assert_survives
from aether_sync.testing._histories import Fate, Step
from aether_sync.testing._lines import Tracer, own_code
from aether_sync.testing._progress import Visit
from aether_sync.testing._report import reported
from aether_sync.testing._trials import Outcome
from aether_sync.testing._trials import World as _World

from ..support.common import PATIENCE, UNIT, first_of
from ..support.shell import environment

EVENTS = [
    Event(event_type="Deposited", actor_id=f"account-{number % 2}", data={"amount": 10**number}) for number in range(6)
]

FIRST_TRACER = """
from aether_sync.testing._lines import Tracer, own_code

def first():
    str(1); str(2)

def second():
    str(1); str(2)

for handler in (first, second, first):
    with Tracer(own_code(frozenset()), 0, print, counts_parts=True) as tracer:
        handler()
    assert len(tracer.parts) == 1
"""

LONG = PATIENCE * 10  # seconds: on a busy machine as many histories are played as on any other


class World:
    """What is outside of the process (``rows``, ``done``), and what is in its memory (``memory``)."""

    def __init__(self) -> None:
        self.rows: dict[str, Any] = {}
        self.done: set[Any] = set()
        self.memory: dict[str, Any] = {}

    def reset(self) -> None:
        self.rows.clear()
        self.done.clear()

    def survives(self, handler: Callable[..., object], events: Any = EVENTS, **options: Any) -> Survival:
        defaults = {"state": lambda: self.rows, "reset": self.reset, "restart": self.memory.clear}
        return assert_survives(handler, events, **{**defaults, "seconds": LONG, **options})

    def add(self, event: Event) -> None:
        assert event.data is not None
        self.rows[event.actor_id] = self.rows.get(event.actor_id, 0) + event.data["amount"]

    # -- handlers with a fault

    def adds_twice(self, event: Event) -> None:
        self.add(event)

    def notes_before(self, delivery: Delivery) -> None:
        if delivery.sequence not in self.done:
            self.done.add(delivery.sequence)
            self.add(delivery.event)

    def notes_after(self, delivery: Delivery) -> None:
        if delivery.sequence not in self.done:
            self.add(delivery.event)
            self.done.add(delivery.sequence)

    def acknowledges_early(self, delivery: Delivery) -> None:
        delivery.ack(confirm=True)
        self.rows[delivery.event.id] = True

    def knows_the_last_sequence(self, event: Event, delivery: Delivery) -> None:
        if delivery.sequence > self.rows.get("last", 0):
            self.rows |= {"last": delivery.sequence, event.actor_id: event.version}

    def counts_in_memory(self, event: Event) -> None:
        self.memory.setdefault(event.actor_id, set()).add(event.version)
        self.rows[event.actor_id] = len(self.memory[event.actor_id])

    def remembers_what_it_has_done(self, delivery: Delivery) -> None:
        if delivery.sequence not in self.memory:
            self.memory[str(delivery.sequence)] = True
            self.memory |= {delivery.sequence: True}  # type: ignore[dict-item]
            self.add(delivery.event)

    def sets_the_newest(self, event: Event) -> None:
        assert event.data is not None
        self.rows[event.actor_id] = event.data["amount"]

    def raises_for_a_repeat(self, event: Event) -> None:
        if event.id in self.rows:
            raise KeyError("duplicate key")
        self.rows[event.id] = True

    def keeps_an_order(self, event: Event) -> None:
        if event.id not in self.rows.setdefault("all", []):
            self.rows["all"].append(event.id)

    def skips_below_the_last_version(self, event: Event) -> None:
        total, last = self.rows.get(event.actor_id, (0, 0))
        if event.version > last:
            assert event.data is not None
            self.rows[event.actor_id] = total + event.data["amount"], event.version

    def believes_in_one_attempt(self, delivery: Delivery) -> None:
        if delivery.attempt == 1:
            self.rows[delivery.event.id] = True

    # -- handlers without

    def adds_once(self, delivery: Delivery) -> None:
        if delivery.sequence not in self.done:
            rows = {**self.rows}
            event = delivery.event
            assert event.data is not None
            rows[event.actor_id] = rows.get(event.actor_id, 0) + event.data["amount"]
            self.rows, self.done = rows, {*self.done, delivery.sequence}  # as a transaction

    def puts(self, event: Event) -> None:
        assert event.data is not None
        self.rows[event.id] = event.data["amount"]

    def waits_for_another_actor(self, event: Event) -> None:
        if event.actor_id == "account-1" and "account-0" not in self.rows:
            raise LookupError("account-0 is not there yet")
        self.rows.setdefault(event.actor_id, set()).add(event.version)

    def gives_back_first(self, delivery: Delivery) -> None:
        if delivery.attempt == 1:
            delivery.nak()
        else:
            self.puts(delivery.event)

    def acknowledges_itself(self, delivery: Delivery) -> None:
        self.puts(delivery.event)
        delivery.ack()

    def rejects_some(self, delivery: Delivery) -> None:
        if delivery.event.version == 2:
            delivery.reject("it is the second one")
        else:
            self.puts(delivery.event)


@pytest.fixture
def world() -> World:
    return World()


def report_of(work: Callable[[], object]) -> str:
    with pytest.raises(AssertionError) as caught:
        work()
    return str(caught.value)


def replayed(report: str) -> str:
    (text,) = re.findall(r'replay="(.*)"\)', report)
    return str(text)


FAULTS: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "adds_twice": ("1:ack-lost 1", ["comes again and is handled", "{'account-0': 2}", "more than once"], {}),
    "notes_before": ("1:dies-at-3 1", ["`self.add(delivery.event)`", "{}", "in one transaction"], {}),
    "notes_after": ("1:dies-at-5 1", ["`self.done.add(delivery.sequence)`", "in one transaction"], {}),
    "acknowledges_early": ("1:dies-at-2", ["had acknowledged it itself", "before its work was done"], {}),
    "knows_the_last_sequence": ("2 1", ["1. Event 2", "2. Event 1", "different actors"], {}),
    "counts_in_memory": ("1:dies-acked 3", ["In a new process, event 3", "in memory ends with it"], {}),
    "remembers_what_it_has_done": ("1:dies-after 1", ["dies before the acknowledgement", "more than once"], {}),
    "sets_the_newest": ("1:ack-lost 3 1", ["3. Event 1 comes again", "after later events of its actor"], {}),
    "raises_for_a_repeat": ("1:ack-lost 1", ["5 times in a row: KeyError: 'duplicate key'", "a dead letter"], {}),
    "keeps_an_order": ("3 2", ["different actors"], {}),
    "skips_below_the_last_version": ("3 1", ["a lower version may still be new"], {"keep_order": False}),
    "believes_in_one_attempt": ("1:dies-after 1 2", ["In a new process, event 1", "3. Event 2"], {}),
}


#: What runs each time: the others make sure of the same once more.
QUICK = {"notes_before", "knows_the_last_sequence", "counts_in_memory"}


def quick_or_slow(names: Iterable[str], quick: set[str]) -> list[Any]:
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", quick_or_slow(FAULTS, QUICK))
def test_a_fault_is_caught_with_the_shortest_history(world: World, name: str) -> None:
    replay, parts, options = FAULTS[name]
    handler = getattr(world, name)
    report = report_of(lambda: world.survives(handler, **options))
    assert replayed(report) == replay
    said = " ".join(report.split())
    assert report.startswith(f"{name} does not survive") or report.startswith(f"World.{name} does not survive")
    for part in parts:
        assert part in said
    if name == "knows_the_last_sequence":
        again = report_of(lambda: world.survives(handler, **options, replay=replay))
        assert again == report.partition("\n(It is made")[0], "it can be played again"


RIGHT: dict[str, dict[str, Any]] = {
    "adds_once": {"keep_order": False},
    "puts": {"keep_order": False},
    "skips_below_the_last_version": {},
    "waits_for_another_actor": {},
    "gives_back_first": {},
    "acknowledges_itself": {},
    "rejects_some": {},
}


@pytest.mark.parametrize(
    ("name", "histories"),
    [
        ("adds_once", 12),
        ("waits_for_another_actor", 6),
        ("gives_back_first", 3),
        *(pytest.param(name, 150, marks=pytest.mark.slow) for name in RIGHT),
    ],
)
def test_a_right_handler_survives(world: World, name: str, histories: int) -> None:
    survival = world.survives(getattr(world, name), histories=histories, **RIGHT[name])
    assert survival == Survival(histories, complete=histories > 100)


@pytest.mark.slow
def test_a_random_history_finds_what_none_with_one_fault_does(world: World) -> None:
    """It is handled twice in vain, and the third time is once too often."""

    def handler(delivery: Delivery) -> None:
        count = world.rows.setdefault(delivery.event.actor_id, [0, 0])
        count[0] += 1
        count[1] = max(count[1], count[0] - (delivery.event.version + 1))

    events = EVENTS[:1]
    report = report_of(
        lambda: world.survives(handler, events, state=lambda: [max(0, one[1]) for one in world.rows.values()] or None)
    )
    assert replayed(report) in ("1:ack-lost 1:ack-lost 1",)


types = EventTypes()


@types.event("Deposited")
@dataclass
class Deposited:
    amount: int


class Caller:
    def __call__(self, event: Event) -> None:
        self.see(event)

    def __init__(self, seen: list[Any]) -> None:
        self.see = seen.append

    def method(self, event: Event, more: int = 0) -> None:
        self.see(event)


HANDLERS: dict[str, tuple[Callable[[list[Any]], Callable[..., object]], type]] = {
    "whatever a runner gives": (lambda seen: lambda one: seen.append(one), Delivery),
    "an object": (Caller, Event),
    "a method": (lambda seen: Caller(seen).method, Event),
    "a partial": (lambda seen: partial(lambda more, one: seen.append(one), None), Delivery),
}


class TestHowItIsCalled:
    """As a worker calls it: ``tests/worker`` has what a handler may ask for."""

    @pytest.mark.parametrize("what", HANDLERS)
    def test_with_what_it_takes(self, world: World, what: str) -> None:
        make, wanted = HANDLERS[what]
        seen: list[Any] = []
        handler = make(seen)

        with pytest.raises(InvalidOptionError, match="nothing"):  # that state() shows is changed by it
            world.survives(handler, histories=1)
        assert {type(one) for one in seen} == {wanted}

    def test_with_the_event_and_the_delivery(self, world: World) -> None:
        seen: list[Any] = []

        def handler(event: Event, delivery: Delivery) -> None:
            seen.append((event, delivery))
            world.rows[event.id] = delivery.sequence

        world.survives(handler, histories=1)
        event, delivery = seen[0]
        assert (type(delivery), delivery.event) == (Delivery, event)
        assert {delivery.attempt for _, delivery in seen} >= {1, 2}, "the server has delivered it again"
        assert [event.version for event, _ in seen[:6]] == [1, 1, 2, 2, 3, 3]

    def test_with_typed_values(self, world: World) -> None:
        def handler(deposited: Deposited, delivery: Delivery) -> None:
            world.rows[delivery.event.id] = deposited.amount

        events = [("account-1", Deposited(5)), EVENTS[0].replace(data={"amount": 5})]
        world.survives(handler, events, types=types, histories=1)

    def test_nothing_is_traced_afterwards_and_what_was_goes_on(self, world: World) -> None:
        def tracer(*_: object) -> None:
            return None

        before = sys.gettrace()
        sys.settrace(tracer)
        try:
            world.survives(world.adds_once, EVENTS[:1], histories=4)
            report_of(lambda: world.survives(world.notes_before, EVENTS[:1]))
            after = sys.gettrace()
        finally:
            sys.settrace(before)
        assert after is tracer

    @pytest.mark.slow
    def test_the_server_restarts_once(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        restarts: list[NATSServer] = []
        original = NATSServer.restart

        def restart(self: NATSServer, timeout: float = 5.0) -> None:
            restarts.append(self)
            original(self, timeout)

        monkeypatch.setattr(NATSServer, "restart", restart)
        world.survives(world.puts, EVENTS[:2], replay="1:server-restarts 2 1")
        assert len(restarts) == 1
        report = report_of(lambda: world.survives(world.adds_twice, EVENTS[:2], replay="1:server-restarts 2 1"))
        assert "the server restarts before the acknowledgement" in report

    def test_what_is_handled_is_acknowledged_and_the_rest_comes_again(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ends: list[Any] = []
        original = Consumer.delete

        def delete(self: Consumer, **options: Any) -> bool:
            ends.append(self.state())
            return original(self, **options)

        monkeypatch.setattr(Consumer, "delete", delete)
        world.survives(world.adds_once, EVENTS[:3], histories=1, replay="1:ack-lost 2:dies-after 1 3:dies-at-2 2 3")
        assert {(end.acknowledged, end.unacknowledged, end.waiting) for end in ends} == {(3, 0, 0)}


class TestADeath:
    @pytest.mark.slow
    def test_a_transaction_is_rolled_back(self, world: World) -> None:
        with database() as path:
            world.survives(partial(book, path), state=partial(read, path), reset=partial(empty, path), histories=40)

    @pytest.mark.slow
    def test_a_connection_that_is_left_open_holds_no_lock(self, world: World) -> None:
        """Python lets go of it when the frame is gone: so does a process that dies."""

        def handler(delivery: Delivery) -> None:
            db = sqlite3.connect(path, timeout=0.5)
            if db.execute("INSERT OR IGNORE INTO handled VALUES (?)", (delivery.sequence,)).rowcount:
                assert delivery.event.data is not None
                db.execute("UPDATE balance SET amount = amount + ?", (delivery.event.data["amount"],))
            db.commit()
            db.close()

        with database() as path:
            world.survives(handler, EVENTS[:2], state=partial(read, path), reset=partial(empty, path), histories=30)

    def test_who_catches_everything_is_told(self, world: World) -> None:
        def handler(event: Event) -> None:
            try:
                world.rows[event.id] = 1
                world.rows[event.id] = 2
            except:  # noqa: E722
                pass

        with pytest.raises(
            InvalidOptionError, match=r"before line \d+ of .*test_survives.py, and has gone on.*kill=True"
        ):
            world.survives(handler)

    @pytest.mark.slow
    def test_who_fails_on_its_way_out_is_dead_all_the_same(self, world: World) -> None:
        class Undone:
            def __enter__(self) -> None: ...

            def __exit__(self, kind: object, error: object, trace: object) -> None:
                if kind is not None:
                    raise ConnectionError("it cannot be undone")

        def handler(event: Event) -> None:
            with Undone():
                world.rows[event.id] = 1
                world.rows[event.id] = 2

        world.survives(handler, EVENTS[:2], histories=15)

    def test_it_is_in_code_of_the_user_alone(self, world: World) -> None:
        def handler() -> None:
            re.compile("a|b" * 50)
            Path("a").with_suffix(".b")

        with Tracer(own_code(frozenset()), 0, print) as tracer:
            handler()
        assert [place.file for place in tracer.places] == [__file__] * 2
        with Tracer(own_code(frozenset({"re"})), 0, print) as tracer:
            handler()
        assert len(tracer.places) > 2

    @pytest.mark.slow
    def test_it_is_also_in_what_the_handler_calls(self, world: World) -> None:
        report = report_of(lambda: world.survives(lambda delivery: world.notes_before(delivery), EVENTS[:1]))
        assert "`self.add(delivery.event)`" in report


class TestInTheMiddleOfALine:
    def test_two_effects_of_one_line_are_two(self, world: World) -> None:
        def handler(delivery: Delivery) -> None:
            if delivery.sequence not in world.done:
                world.done.add(delivery.sequence); world.add(delivery.event)  # fmt: skip  # noqa: E702

        report = report_of(lambda: world.survives(handler, EVENTS[:4]))
        assert re.fullmatch(r"1:dies-at-\d+(\.2)? 1", replayed(report))

    def test_the_first_tracer_of_a_process_sees_it(self, tmp_path: Path) -> None:
        """Python 3.12 and 3.13 tell none of parts who asks for them when they trace already, until the next one."""
        program = tmp_path / "first.py"
        program.write_text(FIRST_TRACER)
        subprocess.run([sys.executable, program], env=environment(), check=True, timeout=PATIENCE)

    @pytest.mark.slow
    def test_of_which_neither_shows_a_line_of_the_users(self, world: World) -> None:
        """A line in a function that it calls would be another place to die."""
        sold: list[int] = []

        def handler(delivery: Delivery) -> None:
            if delivery.sequence not in world.done:
                world.done.add(delivery.sequence); sold.append(1)  # fmt: skip  # noqa: E702

        def reset() -> None:
            world.reset()
            sold.clear()

        report = report_of(lambda: world.survives(handler, EVENTS[:4], state=lambda: len(sold), reset=reset))
        assert replayed(report) == "1:dies-at-2.2 1"
        assert "in the middle of line" in report
        assert "`world.done.add(delivery.sequence); sold.append(1)" in report
        again = report_of(
            lambda: world.survives(handler, EVENTS[:4], state=lambda: len(sold), reset=reset, replay="1:dies-at-2.2 1")
        )
        assert "in the middle of line" in again

    @pytest.mark.slow
    def test_also_where_the_process_is_killed(self, tmp_path: Path) -> None:
        done, sold = tmp_path / "done", tmp_path / "sold"

        def handler(delivery: Delivery) -> None:
            folder = done / str(delivery.sequence)
            if not folder.exists():
                folder.mkdir(), (sold / str(delivery.sequence)).mkdir()

        def reset() -> None:
            for one in (done, sold):
                one.mkdir(exist_ok=True)
                for other in one.iterdir():
                    other.rmdir()

        def state() -> int:
            return len(list(sold.iterdir()))

        report = report_of(
            lambda: assert_survives(handler, EVENTS[:2], state=state, reset=reset, kill=True, seconds=LONG)
        )
        assert re.fullmatch(r"1:dies-at-3\.\d+ 1", replayed(report))


class TestAMemoryOfTheLastEvents:
    """Of so many ids that it is enough for an event that comes again at once."""

    @pytest.mark.parametrize("size", first_of([3, 1]))
    def test_is_too_short_for_one_that_comes_late(self, world: World, size: int) -> None:
        def handler(delivery: Delivery) -> None:
            last = world.rows.get("last", [])
            if delivery.sequence not in last:
                count = world.rows.get("count", 0) + 1
                world.rows = {"last": [*last, delivery.sequence][-size:], "count": count}  # at once, as a transaction

        report = report_of(lambda: world.survives(handler, state=lambda: world.rows.get("count", 0)))
        others = replayed(report).removeprefix("1:ack-lost ").removesuffix(" 1").split()
        assert replayed(report).startswith("1:ack-lost ")
        assert len(others) == len(set(others)) == size


class TestASlowHandler:
    @pytest.mark.slow
    def test_has_some_histories_of_each_kind_all_the_same(self, world: World) -> None:
        with pytest.warns(
            UserWarning, match=r"World.puts has survived 25 histories in 1e-06 s, .* or say by histories=25"
        ):
            survival = world.survives(world.puts, seconds=1e-6)
        assert survival == Survival(25, complete=False)
        assert world.survives(world.puts, seconds=1e-6, histories=25) == survival, "that is meant, so nobody is warned"
        report_of(lambda: world.survives(world.notes_before, seconds=1e-6))

    def test_has_all_that_there_are(self, world: World) -> None:
        survival = world.survives(world.puts, EVENTS[:1], seconds=1e-6)
        assert survival.complete

    def test_is_warned_of_where_it_is_called(self, world: World) -> None:
        with pytest.warns(UserWarning, match="raise seconds=") as caught:
            assert_survives(world.puts, EVENTS, state=lambda: world.rows, reset=world.reset, seconds=1e-6)
        assert [one.filename for one in caught] == [__file__]


class TestInATransaction:
    """As ``Worker.consume(idempotent=...)`` calls it."""

    def survives(self, handler: Callable[..., object], path: Path, **options: Any) -> Survival:
        state, reset = partial(read, path), partial(empty, path)
        options = {"seconds": LONG, "events": EVENTS[:4], "state": state, "reset": reset, **options}
        return assert_survives(handler, idempotent=SQLite(path), **options)

    @pytest.mark.parametrize(
        ("kill", "histories"),
        [(False, 12), *(pytest.param(kill, 60, marks=pytest.mark.slow) for kill in (False, True))],
    )
    def test_a_plain_handler_survives(self, kill: bool, histories: int) -> None:
        def handler(db: sqlite3.Cursor, event: Event) -> None:
            assert event.data is not None
            db.execute("UPDATE balance SET amount = amount + ?", (event.data["amount"],))

        with database() as path:
            assert self.survives(handler, path, kill=kill, histories=histories).histories == histories
            self.survives(handler, path, histories=2)  # the notes of the first run are there, and are not taken for its

    def test_one_that_commits_is_caught(self) -> None:
        def handler(db: sqlite3.Cursor, event: Event) -> None:
            db.execute("UPDATE balance SET amount = amount + 1")
            db.connection.commit()

        with database() as path:
            report = report_of(lambda: self.survives(handler, path))
        assert "fails in an undisturbed run" in report
        assert "the handler must neither commit nor roll back the transaction that it is called in" in report

    @pytest.mark.parametrize("kill", [False, pytest.param(True, marks=pytest.mark.slow)])
    def test_one_that_commits_where_that_is_only_seen_afterwards_is_caught(self, kill: bool) -> None:
        """As with ``DBAPI``: the event becomes a dead letter, as what was committed cannot be taken back."""

        def handler(db: sqlite3.Cursor, event: Event) -> None:
            if event.version == 2:
                raise BrokenTransactionError("it has committed", is_lost=False)
            db.execute("UPDATE balance SET amount = amount + 1")

        with database() as path:
            report = report_of(lambda: self.survives(handler, path, kill=kill))
        assert "fails in an undisturbed run: WorkerError: the handler must neither commit nor roll back" in report

    @pytest.mark.parametrize("is_last", first_of([True, False]))
    def test_an_effect_elsewhere_is_caught(self, is_last: bool, world: World) -> None:
        def at_last(db: sqlite3.Cursor, event: Event) -> None:
            db.execute("UPDATE balance SET amount = amount + 1")
            world.add(event)

        def at_first(db: sqlite3.Cursor, event: Event) -> None:
            world.add(event)
            db.execute("UPDATE balance SET amount = amount + 1")

        handler = at_last if is_last else at_first
        with database() as path:

            def reset() -> None:
                empty(path)
                world.reset()

            report = report_of(
                lambda: self.survives(handler, path, state=lambda: (read(path), world.rows), reset=reset)
            )
            steps = replayed(report)
            again = report_of(
                lambda: self.survives(handler, path, state=lambda: (read(path), world.rows), reset=reset, replay=steps)
            )
        assert re.fullmatch(r"1:dies-at-\d+ 1", steps)
        for one in (report, again):
            assert "is no part of the transaction" in " ".join(one.split())
            assert "one transaction, with a note" not in " ".join(one.split())
        if is_last:
            assert "before the commit." in report

    def test_it_takes_the_database_first(self) -> None:
        with database() as path, pytest.raises(InvalidOptionError, match="the first one gets the database"):
            self.survives(takes_no_database, path)

    def test_nothing_else_is_taken_for_a_database(self, world: World) -> None:
        with pytest.raises(InvalidOptionError, match="idempotent must be a database"):
            world.survives(world.puts, idempotent="x.db")


def takes_no_database(event: Event) -> None: ...


# -- processes that really die


@contextmanager
def database() -> Iterator[Path]:
    """A database in memory, if there is such a place: what is committed there is there at once."""
    folder = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path("/tmp")
    path = folder / f"aether-survives-{os.getpid()}-{random.randrange(10**9)}.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE handled (sequence INTEGER PRIMARY KEY); CREATE TABLE balance (amount INTEGER)")
    try:
        yield path
    finally:
        path.unlink()


def empty(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript("DELETE FROM handled; DELETE FROM balance; INSERT INTO balance VALUES (0)")


def read(path: Path) -> Any:
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT * FROM balance").fetchall()


def book(path: Path, delivery: Delivery) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        if db.execute("INSERT OR IGNORE INTO handled VALUES (?)", (delivery.sequence,)).rowcount:
            assert delivery.event.data is not None
            db.execute("UPDATE balance SET amount = amount + ?", (delivery.event.data["amount"],))


def book_in_two(path: Path, delivery: Delivery) -> None:
    with closing(sqlite3.connect(path)) as db:
        with db:
            is_new = db.execute("INSERT OR IGNORE INTO handled VALUES (?)", (delivery.sequence,)).rowcount
        if is_new:
            with db:
                assert delivery.event.data is not None
                db.execute("UPDATE balance SET amount = amount + ?", (delivery.event.data["amount"],))


class TestAProcessThatIsKilled:
    def survives(self, handler: Callable[..., object], path: Path, **options: Any) -> Survival:
        state, reset = partial(read, path), partial(empty, path)
        options = {"seconds": LONG, "events": EVENTS[:3], **options}
        return assert_survives(partial(handler, path), state=state, reset=reset, kill=True, **options)

    @pytest.mark.parametrize("histories", [3, pytest.param(60, marks=pytest.mark.slow)])
    def test_a_right_handler_survives(self, histories: int) -> None:
        with database() as path:
            survival = self.survives(book, path, histories=histories)
            assert survival == Survival(histories, complete=histories > 50)

    @pytest.mark.slow
    def test_a_transaction_too_many_is_caught(self) -> None:
        with database() as path:
            report = report_of(lambda: self.survives(book_in_two, path))
            assert re.fullmatch(r"1:dies-at-\d+ 1", replayed(report))
            assert re.search(r"dies while it handles event 1 .*, before line \d+ of .*, `(with db|if is_new):`", report)

    @pytest.mark.slow
    def test_its_memory_is_gone_without_a_word_of_the_test(self) -> None:
        memory: dict[int, int] = {}

        def handler(path: Path, event: Event) -> None:
            assert event.data is not None
            memory[event.version] = event.data["amount"]
            with closing(sqlite3.connect(path)) as db, db:
                db.execute("UPDATE balance SET amount = ?", (sum(memory.values()),))

        events = [event.replace(actor_id="account-1") for event in EVENTS[:3]]
        with database() as path:
            report = report_of(lambda: self.survives(handler, path, events=events))
        assert replayed(report) == "1:dies-acked 2"
        assert memory == {}

    def test_no_finally_runs(self) -> None:
        """In this process it does, which is why ``kill=True`` is there."""

        def handler(path: Path, delivery: Delivery) -> None:
            with closing(sqlite3.connect(path, isolation_level=None)) as db:
                if db.execute("INSERT OR IGNORE INTO handled VALUES (?)", (delivery.sequence,)).rowcount:
                    try:
                        path.stat()
                    finally:
                        db.execute("UPDATE balance SET amount = amount + 1")

        with database() as path:
            replay, events = "1:dies-at-4 1", EVENTS[:1]
            report = report_of(lambda: self.survives(handler, path, events=events, replay=replay))
            assert "`path.stat()`" in report
            state, reset = partial(read, path), partial(empty, path)
            assert_survives(partial(handler, path), events, state=state, reset=reset, replay=replay)

    @pytest.mark.slow
    def test_restart_is_called_in_each_process(self) -> None:
        with database() as path:
            self.survives(
                lambda path, delivery: book(opened[0], delivery), path, restart=lambda: opened.append(path), histories=4
            )
        assert not opened

    def test_who_ends_its_process_itself_is_told(self) -> None:
        with database() as path, pytest.raises(InvalidOptionError, match="ended with status 3: the handler itself"):
            self.survives(lambda path, event: os._exit(3), path)

    @pytest.mark.slow
    def test_one_that_hangs_is_ended(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("aether_sync.testing._children._PATIENCE", 1.0 * UNIT)
        with database() as path, pytest.raises(DeadlineExceededError, match="a call of it hangs"):
            self.survives(lambda path, event: time.sleep(PATIENCE * 10), path)
        assert os.waitpid(-1, os.WNOHANG) == (0, 0), "no zombie is left"

    def test_what_is_in_memory_shows_nothing(self, world: World) -> None:
        with pytest.raises(InvalidOptionError, match="let state\\(\\) read a file or a database"):
            world.survives(world.puts, kill=True)

    @pytest.mark.slow
    def test_an_undisturbed_error_is_told(self, world: World) -> None:
        with pytest.raises(
            AssertionError, match=r"<lambda> fails in an undisturbed run: .* 5 times with event 1: ZeroDiv"
        ):
            world.survives(lambda event: 1 / 0, kill=True)

    @pytest.mark.slow
    def test_what_is_asked_of_the_handler_in_vain_is_raised_here(self, world: World) -> None:
        with pytest.raises(InvalidOptionError, match="in the process of the handler: Unpicklable: no"):
            world.survives(Unpicklable.fail, kill=True)


opened: list[Path] = []


class Unpicklable(BaseException):
    def __reduce__(self) -> Any:
        raise TypeError

    @classmethod
    def fail(cls, event: Event) -> None:
        raise cls("no")


# -- what is told


class TestTheReport:
    def test_it_is_a_page_that_a_person_understands(self, world: World) -> None:
        report = report_of(lambda: world.survives(world.adds_twice, EVENTS[:2], histories=9))
        assert report == (
            "World.adds_twice does not survive this history:\n"
            "\n"
            "  1. Event 1 (Deposited of account-0, {'amount': 1}) is handled, and its acknowledgement is lost.\n"
            "  2. Event 1 comes again and is handled.\n"
            "\n"
            "  state() after an undisturbed run:  {'account-0': 1}\n"
            "  state() after this history:        {'account-0': 2}\n"
            "\n"
            "An event may come more than once: its acknowledgement is lost with a connection, a process or a\n"
            "server. Note delivery.sequence in the same transaction as the effect, and skip an event that is\n"
            "noted.\n"
            "\n"
            'To play it again: assert_survives(..., replay="1:ack-lost 1")\n'
            "(It is made of history 1 of at most 9, seed 0.)"
        )

    def of(self, usual: object, found: object) -> str:
        visits = (Visit(Step(0, Fate.LOST)), Visit(Step(0), is_again=True))
        return reported("handler", EVENTS, Outcome(visits, usual), Outcome(visits, found), "", is_once=False)

    def test_large_states_are_shown_by_their_difference(self) -> None:
        rows = {f"row-{number:02}": "x" * 50 for number in range(100)}
        report = self.of(rows, {**rows, "row-50": "y"})
        assert f"- 'row-50': '{'x' * 50}'," in report
        assert "+ 'row-50': 'y'," in report
        assert report.count("row-") < 8

    def test_a_difference_that_is_too_long_is_cut(self) -> None:
        report = self.of([f"{number:030}" for number in range(100)], [])
        assert re.search(r"\.\.\. and \d+ more lines", report)
        assert len(report.splitlines()) < 60

    def test_a_list_in_another_order_has_a_hint(self) -> None:
        hint = "Only the order differs. If it does not matter, let state() return it sorted."
        assert hint in self.of([1, 2], [2, 1])
        assert hint not in self.of([1, 2], [2, 2])

    def test_one_that_fails_at_times_when_it_is_played_again_is_told(self, world: World) -> None:
        calls = count(1)

        def handler(event: Event) -> None:
            world.puts(event)
            if world.done and next(calls) % 2:
                world.rows["odd"] = True
            world.done.add(1)

        report = report_of(lambda: world.survives(handler, EVENTS[:1], histories=1, state=lambda: {**world.rows}))
        assert re.search("When it was played again, it did (fail [12] of 3 times|not fail): the", report)

    @pytest.mark.slow
    def test_who_is_moody_is_told_so(self, world: World) -> None:
        calls = iter(range(10**6))

        def handler(event: Event) -> None:
            world.puts(event)
            if next(calls) == 20:
                world.rows["once"] = True

        report = report_of(lambda: world.survives(handler))
        assert "When it was played again, it did not fail" in report

    def test_an_error_of_the_handler_is_its_cause(self, world: World) -> None:
        with pytest.raises(AssertionError) as caught:
            world.survives(world.raises_for_a_repeat, EVENTS[:1])
        assert type(caught.value.__cause__) is KeyError

    @pytest.mark.slow
    def test_a_state_that_cannot_be_read_is_told(self, world: World) -> None:
        def state() -> Any:
            assert all(amount < 2 for amount in world.rows.values()), "a balance is too large"
            return world.rows

        report = report_of(lambda: world.survives(world.adds_twice, EVENTS[:1], state=state))
        assert "State() raised AssertionError: a balance is too large" in report


class TestAnUndisturbedRun:
    def test_an_error_of_the_handler_is_raised_with_its_cause(self, world: World) -> None:
        with pytest.raises(AssertionError, match=r"fails in an undisturbed run: .*ZeroDivisionError") as caught:
            world.survives(lambda event: 1 / 0)
        assert type(caught.value.__cause__) is ZeroDivisionError

    def test_two_have_to_be_equal(self, world: World) -> None:
        with pytest.raises(InvalidOptionError, match=r"after one undisturbed run, and .* leave out what differs"):
            world.survives(lambda event: world.rows.update(now=random.random()))

    def test_each_begins_with_the_same(self, world: World) -> None:
        with pytest.raises(InvalidOptionError, match=r"before the first event state\(\) returned \{\} .* give reset="):
            world.survives(world.puts, reset=None)

    def test_something_has_to_change(self, world: World) -> None:
        with pytest.raises(InvalidOptionError, match="so it shows nothing: let it return what the handler changes"):
            world.survives(lambda event: None)

    @pytest.mark.slow
    def test_it_may_change_in_between_alone(self, world: World) -> None:
        def handler(event: Event) -> None:
            world.rows = {} if event.version == 3 or world.done else {"is": "there"}
            world.done |= {event.version} & {3}

        world.survives(handler, [event.replace(actor_id="a") for event in EVENTS[:3]], histories=1)

    def test_what_a_user_interrupts_ends(self, world: World) -> None:
        def handler(event: Event) -> None:
            raise KeyboardInterrupt

        for kill in (False, True):
            with pytest.raises(KeyboardInterrupt):
                world.survives(handler, kill=kill)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"handler": None}, "must be a function that is called with a Delivery, not None"),
        ({"handler": lambda: None}, "must take a Delivery or an Event"),
        ({"handler": lambda one, two, three: None}, "'one' has no annotation: give it a Delivery"),
        ({"events": []}, "at least one event"),
        ({"events": "ab"}, "iterable of events, not 'ab'"),
        ({"events": 7}, "iterable of events, not 7"),
        ({"events": [{}]}, "each of the events must be an Event, not {}"),
        ({"events": [("a", 1)]}, "each of the events must be an Event, not"),
        ({"events": [("a", 1), 2], "types": EventTypes()}, "int"),
        ({"events": [2], "types": EventTypes()}, "a pair of an actor's id and a value"),
        ({"events": EVENTS * 200}, "at most 1,000"),
        ({"state": None}, "state must be a function"),
        ({"state": lambda one: None}, "state is called"),
        ({"reset": 1}, "reset must be a function"),
        ({"restart": lambda one: None}, "restart is called"),
        ({"types": 1}, "types"),
        ({"keep_order": 1}, "keep_order must be True or False"),
        ({"kill": "no"}, "kill must be True or False"),
        ({"histories": 0}, "histories must be"),
        ({"seconds": 0}, "seconds must be"),
        ({"seed": -1}, "seed must be"),
        ({"replay": 5}, "replay must be"),
        ({"replay": "9"}, "there are 6 events"),
    ],
)
def test_what_it_cannot_do_is_refused_before_a_server_starts(
    world: World, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any], says: str
) -> None:
    monkeypatch.setattr(NATSServer, "start", None)
    options = {"handler": world.puts, "events": EVENTS, "state": lambda: 1, **wrong}
    with pytest.raises(ValueError, match=says):
        assert_survives(**options)


def test_events_that_no_store_has_are_refused(world: World) -> None:
    with pytest.raises(InvalidEventError, match="do not increase: 1 comes after 2"):
        world.survives(world.puts, [EVENTS[0].replace(version=2), EVENTS[2].replace(version=1)])
    with pytest.raises(DuplicateIdError):
        world.survives(world.puts, [EVENTS[0], EVENTS[0]])


def test_a_state_does_not_change_any_more() -> None:
    rows = {"all": [1]}
    world = _World(state=lambda: rows, reset=rows.clear, start=rows.clear)
    before = world.look()
    rows["all"].append(2)
    assert before == {"all": [1]}
    assert world.look() == {"all": [1, 2]}


def test_a_handler_that_nobody_would_run_is_refused(world: World) -> None:
    async def handler(event: Event) -> None: ...

    with pytest.raises(InvalidOptionError, match="must not be an `async def`"):
        world.survives(handler)
    with pytest.raises(AssertionError, match="nobody runs"):
        world.survives(lambda event: (world.puts(event) for _ in ()))


def test_a_typed_handler_needs_types(world: World) -> None:
    def handler(deposited: World) -> None: ...

    with pytest.raises(InvalidOptionError, match="To get typed values, give the store or the bus its classes"):
        world.survives(handler)


@pytest.mark.slow
def test_a_state_that_cannot_be_compared_is_refused(world: World) -> None:
    class Stubborn:
        def __deepcopy__(self, memo: object) -> Any:
            raise TypeError("no copy")

    with pytest.raises(InvalidOptionError, match=r"cannot be copied .*no copy.*plain values"):
        world.survives(world.puts, state=Stubborn)
    with pytest.raises(InvalidOptionError, match=r"cannot be compared .*plain values"):
        world.survives(world.puts, state=lambda: numpy.array([1, 2]))
