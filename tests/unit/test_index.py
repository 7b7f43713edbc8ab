"""Who is found by namespace, against a scan of all; whatever comes in the middle of a change; and what is left."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count, product
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aether_sync._bus import index as _index
from aether_sync._bus import routing as _routing
from aether_sync._bus.index import Index, Tree
from aether_sync._bus.routing import Target, Targets, make_target

from ..support.common import run_threads

TOKENS = ("a", "b", "a-1", "a-2")
namespaces = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=4).map(".".join)
patterns = st.builds(
    lambda tokens, rest: ".".join((*tokens, *rest)),
    st.lists(st.sampled_from((*TOKENS, "*", "*", "a-*", "*-1", "**")), min_size=1, max_size=3),
    st.sampled_from(((), (), (">",))),
) | st.just(">")


def make_targets() -> Targets:
    return Targets(lambda namespace: None)


def wanting(*patterns: str, group: str | None = None) -> Target:
    return make_target(patterns, None, 1000, 10**6, "drop_newest", group, lambda stats: None)


def scanned(targets: list[Target], namespace: str) -> tuple[Target, ...]:
    return tuple(target for target in targets if target.first_match(namespace) is not None)


def is_bare(targets: Targets) -> bool:
    targets._index.find("a")
    tree = targets._index._tree
    return not (tree.branches or tree.holders or targets._index._all or targets._groups or targets._turns)


class RoutingMachine(RuleBasedStateMachine):
    """Targets come and go; each route, kept or not, is what a scan of all finds, in the order of coming."""

    def __init__(self) -> None:
        super().__init__()
        self.targets = make_targets()
        self.there: list[Target] = []
        self.gone: list[Target] = []
        self.asked: set[str] = set()

    @rule(patterns=st.lists(patterns, min_size=1, max_size=3))
    def come(self, patterns: list[str]) -> None:
        self.there.append(wanting(*patterns))
        self.targets.add(self.there[-1])

    @rule(pattern=st.lists(st.sampled_from(("a", "b", "*")), min_size=1, max_size=3).map(".".join))
    def join(self, pattern: str) -> None:
        self.there.append(wanting(pattern, group="g"))
        self.targets.add(self.there[-1])

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        self.gone.append(self.there.pop(data.draw(st.integers(0, len(self.there) - 1))))
        self.targets.remove(self.gone[-1])

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def go_again(self, data: st.DataObject) -> None:
        self.targets.remove(data.draw(st.sampled_from(self.gone)))

    @precondition(lambda self: self.gone)
    @rule()
    def come_back(self) -> None:
        self.there.append(self.gone.pop())
        self.targets.add(self.there[-1])

    @rule(namespace=namespaces)
    def ask(self, namespace: str) -> None:
        self.asked.add(namespace)
        self.check(namespace)

    @invariant()
    def all_that_were_asked_for_are_right(self) -> None:
        for namespace in self.asked:
            self.check(namespace)

    def check(self, namespace: str) -> None:
        route = self.targets.route(namespace)
        wanting = scanned(self.there, namespace)
        assert route.targets == tuple(target for target in wanting if target.group is None)
        members = tuple(target for target in wanting if target.group is not None)
        assert [group.members for group in route.groups] == ([members] if members else [])
        assert route.is_wanted == bool(wanting)

    def teardown(self) -> None:
        for target in self.there:
            self.targets.remove(target)
        assert is_bare(self.targets)


TestRouting = RoutingMachine.TestCase
TestRouting.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)


@pytest.mark.slow
class TestRoutingForLong(RoutingMachine.TestCase):
    settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_many_routes_are_forgotten_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_routing, "_ROUTES_CHECKED", 1)
    targets, late = make_targets(), wanting("a.*")
    before = [targets.route(namespace) for namespace in ("a.b", "b.b")]
    targets.add(late)
    assert targets.route("a.b").targets == (late,)
    assert targets.route("b.b") is not before[1]


def test_a_route_that_a_change_does_not_concern_is_kept() -> None:
    targets = make_targets()
    before = targets.route("b.b")
    for pattern in ("a.*", "a.b", "*.a-*"):
        targets.add(wanting(pattern))
    assert targets.route("b.b") is before


def test_what_holds_nobody_is_cut_off() -> None:
    tree: Tree[str] = Tree()
    for place, pattern in enumerate(("a.*.b", "a.*", "a.c.>", ">")):
        tree.add(pattern, "one", place)
    tree.add("a.*.b", "two", 9)
    tree.remove("a.*.b", "one")
    assert tree.find("a.c.b") == ["one", "two"]
    tree.remove("a.*.b", "two")
    assert tree.branches["a"].branches["*"].branches == {}
    for pattern in ("a.*", "a.c.>", ">", "a.c", "never"):
        tree.remove(pattern, "one")
    assert tree.branches == {}


def test_others_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = make_targets()
    for number in range(1_000):
        targets.add(wanting(f"other-{number}.*", f"*.other-{number}.>"))
    wanted = wanting("*.b")
    targets.add(wanted)
    looked: list[Target] = []
    first_match = Target.first_match
    monkeypatch.setattr(
        Target, "first_match", lambda self, namespace: looked.append(self) or first_match(self, namespace)
    )
    assert targets.route("a.b").targets == (wanted,)
    assert looked == [wanted]


# -- in the middle of a change


class Interrupt(Exception):
    """What a signal handler raises."""


CHANGING = {Targets.add, Targets.remove, Targets._forget_routes, Targets._compute}
CODES = {function.__code__ for function in CHANGING}


@contextmanager
def at_step(step: int, action: Callable[[], object]) -> Iterator[list[int]]:
    """Act before the given line, counted from 0, of what changes or reads the index; yields whether it was come by."""
    lines, acted = count(), []

    def local(frame: FrameType, event: str, _: object) -> Any:
        if event == "line" and not acted and next(lines) == step:
            sys.settrace(None)
            acted.append(frame.f_lineno)
            action()
        return local

    traced = sys.gettrace()
    sys.settrace(
        lambda frame, *_: local if frame.f_code.co_filename == _index.__file__ or frame.f_code in CODES else None
    )
    try:
        yield acted
    finally:
        sys.settrace(traced)


class Crowd:
    """Targets of which some come, go or are asked for, and whoever is there."""

    def __init__(self) -> None:
        self.targets = make_targets()
        self.wild, self.literal, self.glob = wanting("a.*", "a.b.c"), wanting("a.b"), wanting("a.b-*", "a.c-*")
        self.new, self.newer = wanting("a.*", "c"), wanting("a.b", "a.b.*", "*.*")
        self.there = {self.wild, self.literal, self.glob}
        for target in self.there:
            self.targets.add(target)
        self.targets.route("a.b")

    def come(self, target: Target) -> None:
        self.there.add(target)
        self.targets.add(target)

    def go(self, target: Target) -> None:
        self.there.discard(target)
        self.targets.remove(target)

    def look_in_doubt(self) -> None:
        """As after a change that was interrupted."""
        self.targets._index._tree.state = "old"
        self.targets.route("a.b-1")

    def check(self) -> None:
        for namespace in ("a.b", "a.b-1", "c", "a.b.c", "z"):
            assert set(self.targets.route(namespace).targets) == set(scanned(list(self.there), namespace)), namespace
        for target in list(self.there):
            self.go(target)
        assert is_bare(self.targets)


DEEDS: dict[str, Callable[[Crowd], object]] = {
    "one comes": lambda crowd: crowd.come(crowd.new),
    "a wildcard goes": lambda crowd: crowd.go(crowd.wild),
    "a literal goes": lambda crowd: crowd.go(crowd.literal),
    "a route is looked for": lambda crowd: crowd.targets.route("a.b-1"),
    "a tree is grown": lambda crowd: crowd.look_in_doubt(),
}
MEANWHILE: dict[str, Callable[[Crowd], object]] = {
    "another comes": lambda crowd: crowd.come(crowd.newer),
    "all others go": lambda crowd: [crowd.go(one) for one in (crowd.wild, crowd.literal, crowd.glob)],
    "another comes and goes": lambda crowd: (crowd.come(crowd.newer), crowd.go(crowd.newer)),
    "routes are looked for": lambda crowd: [crowd.targets.route(namespace) for namespace in ("a.b", "c", "a.b.c")],
}


@pytest.mark.parametrize(("deed", "meanwhile"), list(product(DEEDS, MEANWHILE)))
def test_a_handler_lets_others_in_at_any_step(deed: str, meanwhile: str) -> None:
    for step in count():
        crowd = Crowd()
        with at_step(step, lambda crowd=crowd: MEANWHILE[meanwhile](crowd)) as acted:  # type: ignore[misc]
            DEEDS[deed](crowd)
        if not acted:
            assert step > 10
            return
        crowd.check()


@pytest.mark.parametrize("deed", DEEDS)
def test_a_handler_raises_at_any_step(deed: str) -> None:
    """Who is interrupted in leaving leaves again, and who is in coming leaves, as ``subscribe()`` does."""

    def interrupt() -> None:
        raise Interrupt

    for step in count():
        crowd = Crowd()
        with at_step(step, interrupt) as acted, suppress(Interrupt):
            DEEDS[deed](crowd)
        if not acted:
            assert step > 10
            return
        if deed == "one comes":
            crowd.go(crowd.new)
        elif deed.endswith("goes"):
            DEEDS[deed](crowd)
        crowd.check()


@pytest.mark.concurrent
def test_threads_come_and_go_and_ask() -> None:
    targets, staying = make_targets(), wanting("a.*")
    targets.add(staying)

    def come_and_go(number: int) -> None:
        for turn in range(300):
            one = wanting(f"a.{turn % 7}", f"b-{number}.*", "*.b")
            targets.add(one)
            assert one in targets.route(f"b-{number}.{turn}").targets
            assert staying in targets.route(f"a.{turn % 7}").targets
            targets.remove(one)
            assert one not in targets.route(f"b-{number}.{turn}").targets
            assert one not in targets.route(f"a.{turn % 7}").targets

    run_threads(*(lambda number=number: come_and_go(number) for number in range(4)))  # type: ignore[misc]
    targets.remove(staying)
    assert is_bare(targets)


def test_an_index_knows_its_changes() -> None:
    index: Index[str] = Index()
    states = [index.state]
    index.add("one", ["a.*"])
    states.append(index.state)
    index.remove("one", ["a.*"])
    states.append(index.state)
    assert len(set(map(id, states))) == 3
