"""``handling()``: who sees which event is being handled, and who does not."""

import asyncio
import gc
import logging
import threading
from collections.abc import Iterator
from contextvars import copy_context

import pytest
import structlog

from aether_sync import (
    Event,
    HandlingContext,
    HandlingFilter,
    InMemoryEventStore,
    InvalidOptionError,
    StoredEvent,
    add_handling,
    current_handling,
    handling,
    instrument,
)

from ..support.common import make_event, run_threads

CAUSE = make_event(1, id="e-1", namespace="orders.eu")


def test_the_context_says_which_event_it_is() -> None:
    event = CAUSE.with_metadata(correlation_id="c-1")
    with handling(event) as context:
        assert current_handling() is context
        assert context == HandlingContext("e-1", "Happened", "thing-1", "orders.eu", "c-1")
    assert current_handling() is None


def test_an_event_that_begins_a_conversation_is_its_correlation_id() -> None:
    effect = CAUSE.following(event_type="Followed", actor_id="thing-2")
    with handling(CAUSE) as one, handling(effect) as other:
        assert one.correlation_id == other.correlation_id == "e-1"


def test_a_stored_event_has_a_sequence() -> None:
    with handling(StoredEvent(CAUSE, 17)) as context:
        assert (context.sequence, context.event_id, context.consumer) == (17, "e-1", "")


def test_the_innermost_is_current() -> None:
    with handling(CAUSE) as outer:
        with handling(make_event(2)) as inner:
            assert current_handling() is inner
        assert current_handling() is outer


def test_an_exception_ends_it() -> None:
    with pytest.raises(StopIteration), handling(CAUSE):
        raise StopIteration
    assert current_handling() is None


def test_no_other_thread_sees_it() -> None:
    seen: list[HandlingContext | None] = []
    with handling(CAUSE):
        run_threads(lambda: seen.append(current_handling()))
    assert seen == [None]


@pytest.mark.concurrent
def test_threads_each_see_their_own() -> None:
    meet = threading.Barrier(8)

    def handle(number: int) -> None:
        meet.wait()
        for turn in range(200):
            event = make_event(number, id=f"{number}/{turn}")
            with handling(event):
                found = current_handling()
                assert found is not None
                assert found.event_id == event.id
            assert current_handling() is None

    run_threads(*(lambda number=number: handle(number) for number in range(8)))  # type: ignore[misc]


def test_tasks_each_see_their_own() -> None:
    async def handle(number: int) -> None:
        for turn in range(10):
            with handling(make_event(number, id=f"{number}/{turn}")) as context:
                await asyncio.sleep(0)
                assert current_handling() is context
            assert current_handling() is None

    async def main() -> None:
        await asyncio.gather(*map(handle, range(5)))

    asyncio.run(main())


def test_a_task_sees_what_it_was_made_in() -> None:
    async def look() -> HandlingContext | None:
        await asyncio.sleep(0)
        return current_handling()

    async def main() -> None:
        before = asyncio.create_task(look())
        with handling(CAUSE) as context:
            within = asyncio.create_task(look())
            await asyncio.sleep(0)
        assert (await before, await within) == (None, context)

    asyncio.run(main())


def test_a_generator_that_is_finalized_elsewhere_harms_nobody() -> None:
    def events() -> Iterator[Event]:
        with handling(CAUSE):
            yield CAUSE

    begun = events()
    copy_context().run(next, begun)
    with handling(make_event(2)) as context:
        begun.close()
        assert current_handling() is context
    del begun
    gc.collect()


def test_it_is_used_once() -> None:
    once = handling(CAUSE)
    with once:
        pass
    with pytest.raises(InvalidOptionError, match="can be used once"), once:
        pass


@pytest.mark.parametrize("wrong", [None, "e-1", 17, object(), [CAUSE]])
def test_what_is_no_event_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidOptionError, match="an Event, a Delivery or a StoredEvent"):
        handling(wrong)  # type: ignore[arg-type]
    assert current_handling() is None


def test_a_signal_handler_that_raises_in_an_observer_leaves_nothing_set() -> None:
    def observer(operation: object) -> None:
        raise KeyboardInterrupt

    take_off = instrument(observer)  # type: ignore[arg-type]
    try:
        with pytest.raises(KeyboardInterrupt), handling(CAUSE):
            pytest.fail("the block was entered")
    finally:
        take_off()
    assert current_handling() is None


class TestLogging:
    FORMAT = "%(correlation_id)s|%(event_type)s|%(actor)s|%(namespace)s|%(consumer)s|%(sequence)s|%(message)s"

    def lines_of(self, *messages: str, **extra: object) -> list[str]:
        lines: list[str] = []

        class Lines(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                lines.append(self.format(record))

        handler = Lines()
        handler.setFormatter(logging.Formatter(self.FORMAT))
        handler.addFilter(HandlingFilter())
        logger = logging.Logger("of.the.test")  # noqa: LOG001  # one that nobody else has
        logger.addHandler(handler)
        for message in messages:
            logger.info(message, extra=extra)
        return lines

    def test_each_record_has_the_fields(self) -> None:
        with handling(StoredEvent(CAUSE, 17)):
            assert self.lines_of("one", "two") == [
                "e-1|Happened|thing-1|orders.eu||17|one",
                "e-1|Happened|thing-1|orders.eu||17|two",
            ]

    def test_outside_they_are_empty(self) -> None:
        assert self.lines_of("one") == ["|||||0|one"]

    def test_what_a_record_has_is_kept(self) -> None:
        with handling(CAUSE):
            assert self.lines_of("one", actor="mine") == ["e-1|Happened|mine|orders.eu||0|one"]

    def test_a_sequence_is_always_a_number(self) -> None:
        record = logging.makeLogRecord({})
        assert HandlingFilter().filter(record)
        assert (record.__dict__["sequence"], record.__dict__["consumer"]) == (0, "")


class TestStructlog:
    def test_an_entry_has_the_fields_that_say_something(self) -> None:
        entry = {"event": "paid", "actor": "mine"}
        with handling(CAUSE):
            assert add_handling(None, "info", entry) is entry
        assert entry == {
            "event": "paid",
            "actor": "mine",
            "event_id": "e-1",
            "event_type": "Happened",
            "namespace": "orders.eu",
            "correlation_id": "e-1",
        }

    def test_outside_nothing_is_added(self) -> None:
        assert add_handling(None, "info", {"event": "paid"}) == {"event": "paid"}

    def test_the_real_one_takes_it(self) -> None:
        capture = structlog.testing.LogCapture()
        logger = structlog.wrap_logger(None, [structlog.contextvars.merge_contextvars, add_handling, capture])
        with structlog.contextvars.bound_contextvars(request="r-1"), handling(CAUSE):
            logger.info("paid", qty=3)
        logger.info("done")
        assert capture.entries == [
            {
                "event": "paid",
                "log_level": "info",
                "qty": 3,
                "request": "r-1",
                "event_id": "e-1",
                "event_type": "Happened",
                "actor": "thing-1",
                "namespace": "orders.eu",
                "correlation_id": "e-1",
            },
            {"event": "done", "log_level": "info"},
        ]


def test_a_store_in_memory_gives_what_it_takes() -> None:
    with InMemoryEventStore() as store, store.follow() as events:
        store.append("thing-1", CAUSE, expected_version=0)
        with handling(events.get(1)) as context:
            assert (context.event_id, context.sequence) == ("e-1", 1)
