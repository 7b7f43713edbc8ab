"""The report of a history that a handler does not survive, for a person who has not read how it was found."""

import difflib
import linecache
import os
import textwrap
from collections.abc import Iterator, Sequence
from pprint import pformat
from typing import Any

from .._values.shown import short
from ..events import Event
from ._committing import before_commit
from ._histories import DEATHS, Fate, Step, as_text
from ._progress import Visit
from ._trials import Outcome

__all__ = ["reported", "told"]

_WIDTH = 100  # characters of a line of advice, and of a state that is shown in one line
_LINES = 40  # of a difference

_HANDLED = {
    Fate.DONE: "is handled",
    Fate.LOST: "is handled, and its acknowledgement is lost",
    Fate.AFTER: "is handled, and the process dies before the acknowledgement",
    Fate.ACKED: "is handled and acknowledged, and then the process dies",
    Fate.SERVER: "is handled, and the server restarts before the acknowledgement",
}

_TWICE = (
    "An event may come more than once: its acknowledgement is lost with a connection, a process or a server. Note "
    "delivery.sequence in the same transaction as the effect, and skip an event that is noted."
)
_LATE = (
    "An event that comes again may come after later events of its actor. Skip an event that has had its effect, or the "
    "older value replaces the newer one."
)
_HALF = (
    "What the handler had done by then has stayed, and the rest has not been done. Do all of it in one transaction, "
    "with a note of delivery.sequence, so that both happen or neither."
)
_OUTSIDE = (
    "What the handler does elsewhere than in the database that it is given is no part of the transaction: it stays "
    "when the process dies before the commit, and is done again."
)
_EARLY = (
    "The handler had acknowledged the event before its work was done, so it does not come again. Let the handler "
    "return: the event is acknowledged then."
)
_MEMORY = (
    "What a process has in memory ends with it. Keep it where the next process finds it, or read it again from there."
)
_ACTORS = "The events of different actors may be handled in any order. Only those of one actor come in order."
_OVERTAKEN = (
    "After the death of a process, or with several processes, a later event of an actor may be handled before an "
    "earlier one. So one of a lower version may still be new: skip events that are noted, and no others."
)
_GIVEN_UP = (
    "A runner calls a handler that fails again, and gives the event up in the end: it becomes a dead letter. Let the "
    "handler return if there is nothing to do for an event."
)


def reported(name: str, events: Sequence[Event], usual: Outcome, found: Outcome, about: str, *, is_once: bool) -> str:
    """Return the report.

    Args:
        name: What the handler is called.
        events: All events of the test.
        usual: What comes of an undisturbed run.
        found: What has come of the history.
        about: How the history was found.
        is_once: Whether the handler is called in a transaction that notes the event.
    """
    sentences = "\n".join(f"  {number}. {one}" for number, one in enumerate(_sentences(found.visits, events), start=1))
    advice = "\n".join(textwrap.fill(one, _WIDTH, break_on_hyphens=False) for one in _advice(found, events, is_once))
    return (
        f"{name} does not survive this history:\n\n{sentences}\n\n{_difference(usual, found)}\n\n{advice}\n\n"
        f'To play it again: assert_survives(..., replay="{as_text(told(found.visits))}"){about}'
    )


# -- what has happened


def told(visits: Sequence[Visit]) -> list[Step]:
    """Return the history, with one step for failures of the handler in a row, which come again by themselves."""
    return [visits[at].step for at, _ in _rows(visits)]


def _rows(visits: Sequence[Visit]) -> list[tuple[int, int]]:
    """Return the place of each delivery, and how often the handler has failed with it there, in a row."""
    rows: list[tuple[int, int]] = []
    for at, visit in enumerate(visits):
        before = visits[at - 1] if at else None
        if visit.error and before is not None and (before.step, before.error) == (visit.step, visit.error):
            rows[-1] = (rows[-1][0], rows[-1][1] + 1)
        else:
            rows.append((at, 1))
    return rows


def _sentences(visits: Sequence[Visit], events: Sequence[Event]) -> Iterator[str]:
    """Yield a sentence for each delivery."""
    known: set[int] = set()
    is_new_process = False
    for at, times in _rows(visits):
        visit = visits[at]
        sentence = _sentence(visit, _called(visit.step.event, events, known), times)
        if is_new_process:
            sentence = f"In a new process, {sentence[0].lower()}{sentence[1:]}"
        yield sentence
        is_new_process = visit.step.fate in DEATHS


def _called(number: int, events: Sequence[Event], known: set[int]) -> str:
    """Return what an event is called: what it is, the first time."""
    if number in known:
        return f"event {number + 1}"
    known.add(number)
    event = events[number]
    data = f", {short(event.data)}" if event.data else ""
    return f"event {number + 1} ({event.event_type} of {event.actor_id}{data})"


def _sentence(visit: Visit, event: str, times: int) -> str:
    fate = visit.step.fate
    own = " The handler had acknowledged it itself." if visit.settled == "acknowledged" and fate in DEATHS else ""
    again = "comes again and " if visit.is_again else ""
    if visit.error:
        often = f"{times} times in a row" if times > 1 else "and is called again later"
        return f"The handler fails with {event}, {often}: {visit.error}."
    if fate is Fate.BEFORE:
        return f"The process dies before it handles {event}."
    if fate is Fate.WITHIN:
        verb = "comes again, and the process dies while it handles it" if visit.is_again else ""
        begin = f"{_capital(event)} {verb}" if verb else f"The process dies while it handles {event}"
        where = "in the middle of" if visit.step.part else "before"
        return f"{begin}, {where} {_place(visit)}.{own}"
    if visit.settled in ("given back", "rejected"):
        what = "gives it back" if visit.settled == "given back" else "rejects it"
        return f"{_capital(event)} {again}is handled, and the handler {what}."
    return f"{_capital(event)} {again}{_HANDLED[fate]}.{own}"


def _capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def _place(visit: Visit) -> str:
    assert visit.place is not None
    file, line = visit.place
    if file == before_commit.__code__.co_filename:
        return "the commit"
    code = linecache.getline(file, line).strip()
    return f"line {line} of {os.path.basename(file)}" + (f", `{code}`" if code else "")


# -- what is other than usual


def _difference(usual: Outcome, found: Outcome) -> str:
    if found.failure:
        return _capital(f"{found.failure}. In an undisturbed run it does not.")
    one, other = usual.state, found.state
    texts = repr(one), repr(other)
    if all(len(text) <= _WIDTH and "\n" not in text for text in texts):
        shown = f"  state() after an undisturbed run:  {texts[0]}\n  state() after this history:        {texts[1]}"
    else:
        lines = difflib.unified_diff(
            pformat(one, width=_WIDTH).splitlines(),
            pformat(other, width=_WIDTH).splitlines(),
            "state() after an undisturbed run",
            "state() after this history",
            lineterm="",
            n=1,
        )
        kept = list(lines)
        more = [f"... and {len(kept) - _LINES} more lines"] if len(kept) > _LINES else []
        shown = "\n".join(f"  {line}" for line in [*kept[:_LINES], *more])
    return shown + _hint_of_order(one, other)


def _hint_of_order(one: Any, other: Any) -> str:
    """Return what to do if two lists have the same in another order."""
    if type(one) in (list, tuple) and type(one) is type(other) and sorted(map(repr, one)) == sorted(map(repr, other)):
        return "\n  Only the order differs. If it does not matter, let state() return it sorted."
    return ""


# -- what to do


def _advice(found: Outcome, events: Sequence[Event], is_once: bool) -> list[str]:
    """Return why a handler has to bear such a history, and what helps; for each fault that is in it."""
    visits = found.visits
    fates = {visit.step.fate for visit in visits}
    actors = [events[visit.step.event].actor_id for visit in visits]
    firsts = list(dict.fromkeys(visit.step.event for visit in visits))
    swapped = [(one, other) for at, one in enumerate(firsts) for other in firsts[at + 1 :] if one > other]
    same = [events[one].actor_id == events[other].actor_id for one, other in swapped]
    is_early = any(visit.settled == "acknowledged" and visit.step.fate is Fate.WITHIN for visit in visits)
    again = [
        (at, next(n for n in range(at) if visits[n].step.event == visit.step.event))
        for at, visit in enumerate(visits)
        if visit.is_again and not visit.error
    ]
    is_late = any(
        actors[between] == actors[at] and visits[between].step.event > visits[at].step.event
        for at, first in again
        for between in range(first, at)
    )
    says = {
        _GIVEN_UP: bool(found.failure),
        _EARLY: is_early,
        _OUTSIDE: Fate.WITHIN in fates and is_once,
        _HALF: Fate.WITHIN in fates and not (is_early or is_once),
        _LATE: is_late,
        _TWICE: bool(fates & {Fate.LOST, Fate.AFTER, Fate.SERVER}) and not is_late,
        _MEMORY: bool(fates & {Fate.ACKED, Fate.BEFORE}),
        _OVERTAKEN: any(same),
        _ACTORS: not all(same),
    }
    return [text for text, holds in says.items() if holds]
