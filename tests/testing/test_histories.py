"""Which histories are tried, and that each of them keeps what a consumer promises."""

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aether_sync import InvalidOptionError
from aether_sync.testing._histories import (
    DEATHS,
    Fate,
    Part,
    Place,
    Plan,
    Step,
    as_text,
    parsed,
    random_history,
    single_faults,
)
from aether_sync.testing._progress import MOST_FAILURES, Progress, Visit

ACTORS = ("a", "b", "a", "c", "b", "a")
LINES = (Place("f", 1), Place("f", 2), Place("f", 3), Place("f", 2))


def plan_of(actors: tuple[str, ...] = ACTORS, *, keeps_order: bool = True) -> Plan:
    return Plan(actors, ("Done",) * len(actors), (LINES,) * len(actors), keeps_order, restarts_server=True)


def played(plan: Plan, steps: list[Step]) -> list[Step]:
    """What is delivered of a history, if the handler never fails."""
    progress, found = Progress.of(plan, frozenset(range(plan.count)), steps), []
    while (step := progress.next_step()) is not None:
        found.append(step)
        progress.note(Visit(step), step.fate in (Fate.DONE, Fate.ACKED))
        assert len(found) < 1_000, "it comes to an end"
    return found


def is_handled(step: Step) -> bool:
    return step.fate not in (Fate.BEFORE, Fate.WITHIN)


def firsts_of(steps: list[Step]) -> list[int]:
    """The events in the order in which they are handled for the first time."""
    return list(dict.fromkeys(step.event for step in steps if is_handled(step)))


def keeps_order(actors: tuple[str, ...], steps: list[Step]) -> bool:
    lanes = [[event for event in firsts_of(steps) if actors[event] == actor] for actor in actors]
    return all(lane == sorted(lane) for lane in lanes)


STEPS = st.builds(
    Step, st.integers(0, len(ACTORS) - 1), st.sampled_from(Fate), st.integers(2, 9), st.sampled_from((0, 2, 3))
)


class TestWhateverIsToBePlayed:
    @given(st.lists(STEPS, max_size=20))
    def test_every_event_is_done_once_and_in_order(self, steps: list[Step]) -> None:
        done = played(plan_of(), list(steps))
        assert sorted(step.event for step in done if step.fate in (Fate.DONE, Fate.ACKED)) == list(range(len(ACTORS)))
        assert keeps_order(ACTORS, done)

    @given(st.lists(STEPS, max_size=20))
    def test_what_was_possible_is_played_again_as_it_is(self, steps: list[Step]) -> None:
        for plan in (plan_of(), plan_of(keeps_order=False)):
            done = played(plan, list(steps))
            assert played(plan, list(done)) == done

    @given(st.lists(STEPS, max_size=20))
    def test_it_is_read_as_it_is_written(self, steps: list[Step]) -> None:
        steps = [step if step.fate is Fate.WITHIN else step._replace(line=0, part=0) for step in steps]
        assert parsed(as_text(steps), len(ACTORS)) == steps


class TestHistoriesWithOneFault:
    def test_each_fault_happens_to_each_event(self) -> None:
        found = [played(plan_of(), steps) for steps in single_faults(plan_of())]
        faults = {(step.event, step.fate) for steps in found for step in steps}
        for fate in set(Fate) - {Fate.WITHIN, Fate.SERVER}:
            assert {event for event, other in faults if other is fate} == set(range(len(ACTORS)))
        assert sum(step.fate is Fate.SERVER for steps in found for step in steps) == 1
        assert all(sum(step.fate is not Fate.DONE for step in steps) <= 1 for steps in found)

    def test_the_process_dies_at_each_line_but_the_first_and_twice_where_one_runs_twice(self) -> None:
        found = {str(step) for steps in single_faults(plan_of()) for step in steps if step.fate is Fate.WITHIN}
        assert found == {"1:dies-at-2", "1:dies-at-3", "1:dies-at-4", "2:dies-at-3"}

    def test_an_event_comes_again_at_once_and_at_the_end(self) -> None:
        texts = {as_text(steps) for steps in single_faults(plan_of(("a", "a", "b")))}
        assert {"1:ack-lost 1 2 3", "1:ack-lost 2 3 1", "1 2:ack-lost 3 2", "1 2 3:ack-lost 3"} <= texts

    def test_actors_are_in_every_order_of_two(self) -> None:
        orders = [firsts_of(played(plan_of(), steps)) for steps in single_faults(plan_of())]
        for one in range(len(ACTORS)):
            for other in range(len(ACTORS)):
                if ACTORS[one] != ACTORS[other]:
                    assert any(order.index(one) < order.index(other) for order in orders)

    def test_without_an_order_later_events_come_before_earlier_ones(self) -> None:
        plan = plan_of(("a", "a", "a"), keeps_order=False)
        orders = {tuple(firsts_of(played(plan, steps))) for steps in single_faults(plan)}
        assert {(1, 0, 2), (0, 2, 1), (2, 1, 0)} <= orders

    def test_each_comes_once(self) -> None:
        texts = [as_text(steps) for steps in single_faults(plan_of())]
        assert len(texts) == len(set(texts))


class TestRandomHistories:
    def test_the_same_seed_chooses_the_same_ones(self) -> None:
        one, other = (
            [as_text(random_history(plan_of(), random)) for _ in range(50)] for random in (Random(7), Random(7))
        )
        assert one == other
        assert one != [as_text(random_history(plan_of(), Random(8))) for _ in range(50)]

    def test_they_have_every_fault_and_many_orders(self) -> None:
        random = Random(0)
        found = [played(plan_of(), random_history(plan_of(), random)) for _ in range(300)]
        assert {step.fate for steps in found for step in steps} == set(Fate) - {Fate.SERVER}
        assert len({tuple(firsts_of(steps)) for steps in found}) > 30
        assert max(sum(step.fate in DEATHS for step in steps) for steps in found) == 3
        assert all(step.line == 0 or 2 <= step.line <= len(LINES) for steps in found for step in steps)

    def test_the_order_of_an_actor_is_kept_or_not(self) -> None:
        random = Random(0)
        orders = [[step.event for step in random_history(plan_of(keeps_order=False), random)] for _ in range(50)]
        assert not all(keeps_order(ACTORS, [Step(event) for event in order]) for order in orders)

    def test_a_handler_of_one_line_dies_before_it(self) -> None:
        plan = Plan(("a",), ("Done",), ((Place("f", 1),),), keeps_order=True, restarts_server=False)
        random = Random(0)
        assert all(step.fate is not Fate.WITHIN for _ in range(100) for step in random_history(plan, random))


class TestFailures:
    def failing(self, actors: tuple[str, ...] = ("a", "b")) -> Progress:
        return Progress.of(plan_of(actors), frozenset(range(len(actors))), [])

    def fail(self, progress: Progress, event: int, **how: Any) -> None:
        assert progress.next_step() == Step(event)
        progress.note(Visit(Step(event), **(how or {"error": "E"})), is_settled=False)

    def test_who_fails_is_called_again_when_the_others_are_done(self) -> None:
        progress = self.failing(("a", "a", "b"))
        self.fail(progress, 0)
        assert progress.next_step() == Step(2), "an actor waits for its own events alone"
        progress.note(Visit(Step(2)), is_settled=True)
        assert progress.next_step() == Step(0)

    def test_who_fails_too_often_is_given_up(self) -> None:
        progress = self.failing(("a",))
        for _ in range(MOST_FAILURES):
            assert progress.given_up is None
            self.fail(progress, 0)
        assert progress.given_up is not None
        assert progress.next_step() is None

    def test_who_gives_it_back_each_time_is_given_up(self) -> None:
        progress = self.failing(("a",))
        for _ in range(MOST_FAILURES):
            self.fail(progress, 0, settled="given back")
        assert progress.given_up is not None


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("0", "there are 6 events"),
        ("7", "there are 6 events"),
        ("one", "'one', which is no step"),
        ("1:", "'1:', which is no step"),
        ("1:dies", "no step"),
        ("1:dies-at", "no step"),
        ("1:dies-at-2x", "no step"),
        ("1 2:ack-lost-3", "'2:ack-lost-3'"),
    ],
)
def test_what_is_no_history_is_refused(wrong: str, says: str) -> None:
    with pytest.raises(InvalidOptionError, match=says):
        parsed(wrong, len(ACTORS))


def test_the_process_dies_in_the_middle_of_a_line_once_for_each_type() -> None:
    parts = (Part(2, 2), Part(2, 3))
    plan = replace(plan_of(), parts=(parts,) * len(ACTORS))
    found = {str(step) for steps in single_faults(plan) for step in steps if step.part}
    assert {one.partition(":")[2] for one in found} == {"dies-at-2.2", "dies-at-2.3"}
    assert len(found) == 2 * len({(kind, lines[1]) for kind, lines in zip(plan.kinds, plan.lines, strict=True)})
