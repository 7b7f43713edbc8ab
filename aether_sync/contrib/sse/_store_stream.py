"""``StoreStream``: the events of a store, from any place on, each once; and what a ``Last-Event-ID`` says."""

import re

from ..._arguments import MAX_INT, as_whole, is_of
from ..._runtime.deadline import Deadline
from ..._runtime.exit import is_ending
from ..._values.shown import short
from ...errors import InvalidOptionError, MalformedRecordError, RetryableError, StreamRegressionError
from ...patterns import SubscriptionFilter
from ...stores.event_store import EventStore
from ._counts import counts
from ._format import COMMENT, mark, message, opening
from ._stream import Encode, EventStream, Step
from ._tail import Cursor, Entry, Standing, Tail, tails

__all__ = ["LastEventIdError", "StoreStream", "begin_after"]

_ID = re.compile("[0-9]{1,19}", re.ASCII)
_REFUSE = 5.0  # seconds to be sure that the store has not come so far: it waits for a leader that is new
_ASK = 1.0  # seconds for the question where the store ends, and to read a page
_PAGE = 100  # events that are read at once: 1,000 streams may do so at the same time
_SECTION = 5_000  # sequences that are looked through at once for the events that are wanted


class LastEventIdError(InvalidOptionError):
    """The ``Last-Event-ID``, or ``after``, is no sequence, or is ahead of the store: answer 400.

    A browser that gets 400 connects no more, and its ``EventSource`` is ``CLOSED``. That is right here: what the page
    has shown is of another store, or of a past that was restored, so it has to be loaded anew.
    """


def begin_after(store: EventStore, last_event_id: str | None, after: str | int | None) -> tuple[int | None, bool]:
    """Return the sequence to begin after, and whether it is known that the store has come that far.

    Args:
        store: The store.
        last_event_id: The text of the header; None or "" if there is none.
        after: What counts then; None or "" for events that are stored from now on.

    Returns:
        The sequence; None if the store is away, and nobody knows where it ends now.

    Raises:
        LastEventIdError: It is no sequence, or is ahead of the store.
    """
    tail = tails.find(store)
    known = None if tail is None else tail.position
    what, text = ("Last-Event-ID", last_event_id) if last_event_id else ("after", _text_of(after))
    if not text:
        if known is not None:
            return known, True
        end = _end_of(store, tail)
        return end, end is not None
    sequence = _sequence(what, text)
    if known is not None and sequence <= known:
        return sequence, True
    return sequence, _has_reached(store, tail, what, sequence)


def _text_of(after: str | int | None) -> str | None:
    """Return a sequence as the header would have it; what a client may have sent is checked later."""
    if after is None or is_of(after, str):
        return after
    number = as_whole(after)
    if number is None:
        raise InvalidOptionError(f"after must be the sequence of an event, a number or its text, not {short(after)}")
    return str(number)


def _sequence(what: str, text: str) -> int:
    if not is_of(text, str):
        raise InvalidOptionError(f"last_event_id must be the text of the header, or None, not {short(text)}")
    if _ID.fullmatch(text) is None or int(text) > MAX_INT:
        raise LastEventIdError(
            f"{what} must be the number of an event, as a stream of a store has sent it, not {short(text)}"
        )
    return int(text)


def _end_of(store: EventStore, tail: Tail | None) -> int | None:
    """Return where the store ends; None if it is away, or the process is about to end."""
    if is_ending() or (tail is not None and tail.is_away):
        return None
    try:
        return store.last_sequence(timeout=_ASK)
    except RetryableError:
        return None


def _has_reached(store: EventStore, tail: Tail | None, what: str, sequence: int) -> bool:
    """Whether the store has come as far as this; False if it is away.

    Raises:
        LastEventIdError: It has not.
    """
    end = _end_of(store, tail)
    if end is None:
        return False
    if sequence <= end:
        return True
    try:
        store.follow(after=sequence, timeout=_REFUSE).close()
    except StreamRegressionError as error:
        raise LastEventIdError(
            f"{what} is {sequence}, and the store ends at {end}: it is another store now, or was restored. Load "
            "the page anew"
        ) from error
    except RetryableError:
        return False
    return True


class StoreStream(EventStream):
    """The wanted events of a store after a sequence. Each has its sequence as its id."""

    def __init__(
        self,
        store: EventStore,
        wanted: SubscriptionFilter,
        last_event_id: str | None,
        after: str | int | None,
        encode: Encode | None,
        heartbeat: float,
    ) -> None:
        super().__init__(encode, heartbeat)
        self._store = store
        position, self._is_checked = begin_after(store, last_event_id, after)
        self._cursor = Cursor(wanted, position)
        self._tail: Tail | None = None
        self._page: list[Entry] = []  # which was read from the store, and is behind the cursor
        self._said: int | None = position  # the id that the browser has
        self._has_failed = False  # the last attempt to read

    def _begin(self) -> bytes:
        self._tail = tails.join(self._store, self)
        return opening(self._retry(), self._said)

    def _step(self) -> bytes | Step:
        page, self._page = self._page, []
        if chunk := self._chunk(page):
            return chunk
        while isinstance(found := self._joined.take(self._cursor), list):
            if chunk := self._chunk(found):
                return chunk
        if found is Standing.OVER:
            return Step.END
        if found is Standing.BEHIND and self._cursor.has_joined:
            self._drop()
            return Step.END
        if found is Standing.AT_END and self._said is None:  # nobody knew the place when it began
            return self._beat()  # so that a browser that is cut off now comes back to it
        return self._may_work(found)

    def _may_work(self, found: Standing) -> Step:
        """Return whether to read from the store now, or to wait."""
        tail = self._joined
        if found is Standing.NOT_BEGUN:
            tail.ensure_thread()
            return Step.WAIT
        if found is Standing.AT_END and self._is_checked:
            return Step.WAIT
        if self._has_failed or tail.is_away:
            self._has_failed = False
            return Step.PAUSE
        return Step.WORK

    def _chunk(self, entries: list[Entry]) -> bytes:
        """Return the messages of events; b"" if ``encode`` wants to send none of them."""
        encode = self._encode
        if encode is None:
            messages = [entry.message for entry in entries]
        else:
            made = [(encode(entry.event), entry) for entry in entries]
            messages = [message(one.event.event_type, text, one.sequence) for text, one in made if text is not None]
        if messages:
            self._said = entries[-1].sequence
            counts.sent.many(len(messages))
        return b"".join(messages)

    def _work(self) -> None:
        """Look whether the store has come so far, and read a page of what the tail does not have any more."""
        try:
            if not self._is_checked:
                self._check()
            else:
                self._read()
        except RetryableError:
            self._has_failed = True

    def _check(self) -> None:
        position = self._joined.settle(self._cursor)
        try:
            self._is_checked = position is None or _has_reached(self._store, None, "Last-Event-ID", position)
        except LastEventIdError:  # the browser connects again, and then it gets this as an answer
            self._is_stopped = True

    def _read(self) -> None:
        tail, wanted = self._joined, self._cursor.wanted
        position = tail.settle(self._cursor) or 0
        until = min(position + _SECTION, tail.floor)
        try:
            found = self._store.read_all(
                position,
                limit=_PAGE,
                until=until,
                actors=wanted.actor_pattern or None,
                event_types=wanted.event_types,
                timeout=_ASK,
            )
        except MalformedRecordError as error:  # the tail tells of those that come; these are of the past
            tail.move(self._cursor, error.sequence)
            return
        self._page = [Entry(one.sequence, one.event) for one in found]
        tail.move(self._cursor, found[-1].sequence if found else until)

    def _wait(self, deadline: Deadline) -> None:
        self._cursor.readers.wait(self._is_to_look, deadline)

    async def _wait_in_coroutine(self) -> None:
        await self._cursor.readers.wait_in_coroutine(self._is_to_look)

    def _is_to_look(self) -> bool:
        return self._cursor.is_told or self._is_stopped or self._is_closed

    def _wake(self) -> None:
        self._cursor.readers.wake_all()

    def _beat(self) -> bytes:
        """Return a heartbeat. With it the browser learns that it need not come back for what it does not want."""
        position = self._joined.settle(self._cursor)
        if position is None or (self._said is not None and position <= self._said):
            return COMMENT
        self._said = position
        return mark(position)

    def _release(self) -> None:
        if self._tail is not None:
            self._tail.settle(self._cursor)

    @property
    def _joined(self) -> Tail:
        assert self._tail is not None, "it has begun"
        return self._tail
