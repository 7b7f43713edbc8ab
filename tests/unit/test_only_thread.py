"""``OnlyThread``: one works at a time, whoever begins it; what has ended makes room; what does not end is told."""

import threading
from collections.abc import Iterator

import pytest

from aether_sync._runtime.deadline import Deadline
from aether_sync._runtime.only_thread import OnlyThread

from ..support.common import PATIENCE, run_threads


class Working:
    """Works until it is let end; one that is deaf goes on until the test ends."""

    def __init__(self, *, is_deaf: bool = False) -> None:
        self.is_over = False
        self.is_deaf = is_deaf
        self.goes_on = threading.Event()
        self.starts = 0
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self.goes_on.wait(PATIENCE)
        self.is_over = True

    def start(self) -> None:
        self.starts += 1
        self.thread.start()

    def let_end(self) -> None:
        if not self.is_deaf:
            self.goes_on.set()


@pytest.fixture
def made() -> Iterator[list[Working]]:
    made: list[Working] = []
    yield made
    for one in made:
        one.goes_on.set()
        if one.thread.ident is not None:
            one.thread.join(PATIENCE)


def make(made: list[Working], *, is_deaf: bool = False) -> Working:
    made.append(Working(is_deaf=is_deaf))
    return made[-1]


def test_one_that_works_keeps_its_place_until_it_is_over(made: list[Working]) -> None:
    only: OnlyThread[Working] = OnlyThread()
    assert (only.there, list(only), only.join(Deadline(0))) == (None, [], None)
    first, second = make(made), make(made)
    assert only.begin(first) is only.begin(second) is only.there is first
    only.let_end()
    assert only.join(Deadline(PATIENCE)) is None
    assert only.begin(second) is only.there is second
    assert [one.starts for one in made] == [1, 1]


def test_one_that_is_dropped_makes_room_at_once(made: list[Working]) -> None:
    only: OnlyThread[Working] = OnlyThread()
    first = only.begin(make(made, is_deaf=True))
    only.drop(first)
    only.drop(first)
    assert only.there is None
    assert only.begin(make(made)) is made[1]


def test_one_that_does_not_end_is_told_and_does_not_wait_for_itself(made: list[Working]) -> None:
    only: OnlyThread[Working] = OnlyThread()
    deaf = only.begin(make(made, is_deaf=True))
    only.let_end()
    assert only.join(Deadline(0.05)) is deaf.thread
    itself: OnlyThread[Working] = OnlyThread()
    own = make(made)
    own.thread = threading.current_thread()
    own.start = lambda: None  # type: ignore[method-assign]
    itself.begin(own)
    assert itself.join(Deadline(None)) is None
    made.remove(own)


def begun_at_once(only: OnlyThread[Working], working: list[Working]) -> list[Working]:
    """Begin each on a thread of its own, and return what they got."""
    got: list[Working] = []
    run_threads(*[lambda one=one: got.append(only.begin(one)) for one in working])
    return got


@pytest.mark.concurrent
def test_of_several_that_begin_at_once_one_works(made: list[Working]) -> None:
    for _ in range(60):
        only: OnlyThread[Working] = OnlyThread()
        mine = [make(made) for _ in range(4)]
        assert len(set(map(id, begun_at_once(only, mine)))) == 1
        assert sum(one.starts for one in mine) == 1
        only.let_end()
        assert only.join(Deadline(PATIENCE)) is None
