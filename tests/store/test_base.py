"""``stores/base.py``: trying again after a conflict, and what ``load()`` returns."""

import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from aether_sync import Event, InvalidOptionError
from aether_sync.errors import VersionConflictError
from aether_sync.stores.base import ANY_VERSION, NO_EVENTS, LoadedActor, Snapshot
from aether_sync.stores.retrying import retry_on_conflict

from ..support.common import PATIENCE


class Refused:
    """Is refused so often, and then says what it was given."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.calls = 0

    def __call__(self, *args: int, **kwargs: int) -> tuple[tuple[int, ...], dict[str, int]]:
        self.calls += 1
        if self.calls <= self.times:
            raise VersionConflictError("a", self.calls, 7)
        return args, kwargs


def test_it_is_called_again_after_a_conflict() -> None:
    work = Refused(3)

    @retry_on_conflict
    def deposit(*args: int, **kwargs: int) -> tuple[tuple[int, ...], dict[str, int]]:
        """What it does."""
        return work(*args, **kwargs)

    assert deposit(1, b=2) == ((1,), {"b": 2})
    assert work.calls == 4
    assert (deposit.__name__, deposit.__doc__) == ("deposit", "What it does.")
    assert deposit(3) == ((3,), {})
    assert work.calls == 5


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_it_ends_after_its_attempts(attempts: int) -> None:
    work = Refused(attempts)
    with pytest.raises(VersionConflictError) as caught:
        retry_on_conflict(attempts=attempts)(work)()
    assert work.calls == caught.value.attempted_version == attempts
    assert retry_on_conflict(attempts=attempts)(Refused(attempts - 1))() == ((), {})


def test_ten_attempts_unless_said_otherwise() -> None:
    for decorate in (retry_on_conflict, retry_on_conflict()):
        work = Refused(10_000)
        with pytest.raises(VersionConflictError):
            decorate(work)()
        assert work.calls == 10


def test_it_ends_after_its_time() -> None:
    work = Refused(1_000_000)
    begun = time.monotonic()
    with pytest.raises(VersionConflictError):
        retry_on_conflict(attempts=None, timeout=0.05)(work)()
    assert 0.05 <= time.monotonic() - begun < PATIENCE
    assert work.calls > 1
    work = Refused(1_000_000)
    with pytest.raises(VersionConflictError):
        retry_on_conflict(timeout=0)(work)()
    assert work.calls == 1


def test_every_call_has_the_whole_bound() -> None:
    retrying = retry_on_conflict(attempts=3)(Refused(2))
    assert retrying() == retrying() == ((), {})
    again = Refused(100)
    for n in (1, 2, 3):
        with pytest.raises(VersionConflictError):
            retry_on_conflict(attempts=3)(again)()
        assert again.calls == 3 * n


def test_other_errors_go_through() -> None:
    calls = []

    @retry_on_conflict
    def work() -> None:
        calls.append(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert len(calls) == 1


def test_it_wants_a_bound() -> None:
    with pytest.raises(InvalidOptionError, match="bound"):
        retry_on_conflict(attempts=None)
    for bad in (0, -1, True, 1.5, "3"):
        with pytest.raises(InvalidOptionError, match="attempts"):
            retry_on_conflict(attempts=bad)  # type: ignore[call-overload]
    for bad in (-1, True, "3"):
        with pytest.raises(InvalidOptionError, match="timeout"):
            retry_on_conflict(timeout=bad)  # type: ignore[call-overload]


def test_the_version_of_what_was_loaded() -> None:
    snapshot = Snapshot(actor_id="a", version=3, state={})
    events = [Event(event_type="T", actor_id="a", version=version) for version in (4, 9)]
    assert LoadedActor("a", None, []).version == NO_EVENTS == 0
    assert LoadedActor("a", snapshot, []).version == 3
    assert LoadedActor("a", snapshot, events).version == LoadedActor("a", None, events).version == 9
    assert snapshot.timestamp.utcoffset() is not None


def test_any_is_no_version() -> None:
    assert ANY_VERSION != NO_EVENTS
    assert repr(ANY_VERSION) == "<AnyVersion.ANY: 'any version'>"


class Later:
    async def __call__(self) -> None: ...


async def coroutine() -> None: ...


def generator() -> Iterator[None]:
    yield


@pytest.mark.parametrize("function", [coroutine, generator, partial(coroutine), Later()])
def test_what_raises_only_when_it_is_run_is_refused(function: Callable[[], object]) -> None:
    for decorate in (retry_on_conflict, retry_on_conflict(attempts=2)):
        with pytest.raises(InvalidOptionError, match="decorates a plain function"):
            decorate(function)
