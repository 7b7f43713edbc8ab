"""``_nats.requests`` and ``_nats.call``: answers and those who wait for them, without a server."""

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest

from aether_sync import BusClosedError, DeadlineExceededError
from aether_sync._nats.call import Call, Last, is_status
from aether_sync._nats.interest import Message
from aether_sync._nats.lines import Lines
from aether_sync._nats.requests import Requests
from aether_sync._runtime.deadline import Deadline

from ..support.common import PATIENCE, UNIT, eventually, run_threads


class Wakeup:
    """In place of the loop's. It notes how many threads were still to be woken when it was rung."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self.rings = 0
        self.waited = 0

    @property
    def rung(self) -> bool:
        return self.rings > 0

    def ring(self) -> None:
        self.rings += 1
        self.waited = len(self._requests._answered.waiting)


def ask(requests: Requests, last: Last = 1) -> Call:
    return requests.new_call(("s",), lambda inbox: inbox, last)


def answer(call: Call, data: bytes = b"", headers: bytes = b"") -> Message:
    return call.frame, b"", headers, data


def connected() -> tuple[Requests, Wakeup]:
    requests = Requests(Lines())
    wakeup = Wakeup(requests)
    requests._wakeup = wakeup  # type: ignore[assignment]
    return requests, wakeup


# -- answers


@pytest.mark.parametrize("reads", [[6], [1, 5], [2, 4], [3, 3], [5, 1], [1] * 6])
def test_the_number_of_answers_ends_a_question(reads: list[int]) -> None:
    requests = Requests(Lines())
    call, other = ask(requests, 4), ask(requests)
    answers = [answer(call, b"%d" % n) for n in range(6)]
    left = iter(answers)
    for size in reads:
        requests._take([next(left) for _ in range(size)])
    assert call.wait(Deadline(0)) == answers[:4]
    assert list(requests._calls.values()) == [requests._calls[other._token]]


def test_too_few_answers_do_not_end_it() -> None:
    requests = Requests(Lines())
    call = ask(requests, 4)
    requests._take([answer(call)] * 3)
    with pytest.raises(DeadlineExceededError):
        call.wait(Deadline(0))


def test_a_status_ends_a_question() -> None:
    requests = Requests(Lines())
    call = ask(requests, is_status)
    answers = [answer(call, b"1"), answer(call, b"2"), answer(call, headers=b"NATS/1.0 204 EOB\r\n\r\n")]
    requests._take([*answers, answer(call, b"3")])
    assert call.wait(Deadline(0)) == answers


def test_answers_to_several_questions_come_in_one_read() -> None:
    requests = Requests(Lines())
    calls = [ask(requests, 2) for _ in range(3)]
    unknown = (calls[0].frame[:-1] + b"99", b"", b"", b"")
    requests._take([answer(calls[0], b"a"), unknown, *(answer(call, b"b") for call in calls), answer(calls[2], b"c")])
    assert [len(call.answers) for call in calls] == [2, 1, 2]
    assert len(requests._calls) == 1


# -- threads


def waiting(requests: Requests, calls: list[Call], then: Callable[[int], object]) -> list[threading.Thread]:
    """Start a thread for each call, and return when all wait."""

    def wait(n: int) -> None:
        with suppress(BusClosedError):
            calls[n].wait(Deadline(PATIENCE))
            then(n)

    threads = [threading.Thread(target=wait, args=(n,), daemon=True) for n in range(len(calls))]
    for thread in threads:
        thread.start()
    eventually(lambda: all(call.is_parked for call in calls), "waiting threads")
    return threads


@pytest.mark.concurrent
def test_the_questions_of_threads_that_are_woken_together_are_written_together() -> None:
    requests, wakeup = connected()
    calls = [ask(requests) for _ in range(16)]
    next_calls: list[Call] = []

    def ask_again(_: int) -> None:
        next_calls.append(ask(requests))
        requests.put(next_calls[-1])

    threads = waiting(requests, calls, ask_again)
    requests._take([answer(call) for call in calls])
    for thread in threads:
        thread.join(PATIENCE)
    assert (wakeup.rings, wakeup.waited) == (1, 0), "once, when the last thread is woken"
    assert len(requests._outgoing) == 16


def test_the_loop_is_woken_for_what_was_asked_while_threads_were_woken() -> None:
    requests, wakeup = connected()
    for ends in (partial(requests._leave, False), partial(requests._leave, True), partial(requests._take, [])):
        requests._answered.waiting.append(threading.Lock())  # of one that does not wait any more
        call = ask(requests)
        assert requests.put(call)
        assert not wakeup.rings
        ends()
        assert wakeup.rings == 1
        wakeup.rings = 0
        requests._outgoing.clear()


@pytest.mark.concurrent
def test_who_leaves_before_its_turn_holds_nobody_up() -> None:
    requests, _ = connected()
    calls = [ask(requests) for _ in range(4)]
    woken: list[int] = []
    threads = waiting(requests, calls, woken.append)
    requests._take([answer(calls[3])])
    threads[3].join(PATIENCE)
    calls[1].fail(BusClosedError("closed"))  # its thread raises that
    threads[1].join(PATIENCE)
    requests._take([answer(call) for call in calls])
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(woken) == [0, 2, 3]


@pytest.mark.concurrent
def test_nobody_waits_for_a_thread_that_a_signal_handler_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    requests, wakeup = connected()
    calls = [ask(requests) for _ in range(4)]
    later: list[Callable[[], object]] = []
    requests._call_later = lambda _, call, *arguments: later.append(partial(call, *arguments))
    first, leave, kept = threading.Event(), requests._leave, threading.Event()

    def kept_at_first(is_interrupted: bool) -> None:
        if not first.is_set():
            first.set()
            assert kept.wait(PATIENCE)
        leave(is_interrupted)

    for call in calls:
        monkeypatch.setattr(call, "_leave", kept_at_first)
    woken: list[int] = []
    threads = waiting(requests, calls, woken.append)
    requests._take([answer(call) for call in calls])
    assert first.wait(PATIENCE)
    assert requests.put(ask(requests))
    assert not wakeup.rings
    later.pop()()
    eventually(lambda: len(woken) == 3, "the others, who have their answers")
    while later:
        later.pop()()
    assert wakeup.rings == 1, "nor for its question"
    kept.set()
    for thread in threads:
        thread.join(PATIENCE)


@pytest.mark.concurrent
def test_every_wait_ends() -> None:
    """Threads ask and wait, ask for nothing, give up at once, or are failed; a loop answers what it finds."""
    requests, wakeup = connected()
    ends = time.monotonic() + 0.3 * UNIT
    ended: list[int] = []

    def work(n: int) -> None:
        chosen = random.Random(n)
        try:
            while time.monotonic() < ends:
                call = ask(requests, chosen.choice([1, 3]))
                assert requests.put(call)
                match chosen.randrange(20):
                    case 0:
                        del call  # interrupted before it waits
                    case 1:
                        with suppress(DeadlineExceededError):
                            call.wait(Deadline(0))
                    case 2:
                        call.fail(BusClosedError("closed"))
                        with pytest.raises(BusClosedError):
                            call.wait(Deadline(PATIENCE))
                    case _:
                        call.wait(Deadline(PATIENCE))
        finally:
            ended.append(n)

    def loop() -> None:
        while len(ended) < 16:
            if wakeup.rung:
                wakeup.rings = 0
                refs = [requests._outgoing.popleft() for _ in range(len(requests._outgoing))]
                calls = [call for ref in refs if (call := ref()) is not None and call.claim()]
                requests._take([answer(call) for call in calls for _ in range(3)])
                del calls
            time.sleep(0)

    run_threads(loop, *(partial(work, n) for n in range(16)))
    assert not requests._calls
