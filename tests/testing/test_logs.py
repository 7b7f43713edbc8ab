"""``LogRecorder``: it waits for records, returns each once, and says what there was instead."""

import logging
import logging.config
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aether_sync import Event, EventBus, InvalidOptionError, NATSEventBus, NATSServer, flush_logs
from aether_sync._runtime.reporter import Kind, Reporter, logger
from aether_sync.testing import LogRecorder

from ..support.common import PATIENCE, UNIT


@pytest.fixture
def logs() -> Iterator[LogRecorder]:
    with LogRecorder() as logs:
        yield logs


def drop(bus: EventBus, namespace: str) -> None:
    """Have a subscription drop an event."""
    with bus.subscribe(namespace, maxsize=1):
        bus.publish_many(namespace, [Event(event_type="Happened", actor_id="thing-1")] * 2)


def said(work: Callable[[], object]) -> list[str]:
    with pytest.raises(AssertionError) as caught:
        work()
    return str(caught.value).splitlines()


class TestExpect:
    def test_returns_a_record(self, local_bus: EventBus, logs: LogRecorder) -> None:
        drop(local_bus, "n")
        found: Any = logs.expect("drops", text="too slow", subscription="'n'", within=0)
        assert found.counts == {"maxsize": 1}

    def test_waits_for_it(self, local_bus: EventBus, logs: LogRecorder) -> None:
        timer = threading.Timer(0.1 * UNIT, drop, (local_bus, "n"))
        timer.start()
        logs.expect("drops", within=PATIENCE)
        timer.join()

    def test_returns_each_once(self, local_bus: EventBus, logs: LogRecorder) -> None:
        drop(local_bus, "a")
        drop(local_bus, "b")
        found: list[Any] = [logs.expect("drops", within=0) for _ in "ab"]
        assert [one.subscription for one in found] == ["'a'", "'b'"]
        said(lambda: logs.expect("drops", within=0))

    def test_says_what_was_logged(self, local_bus: EventBus, logs: LogRecorder) -> None:
        assert said(lambda: logs.expect("drops", within=0)) == [
            "no record 'drops' was logged within 0 s",
            "nothing was logged",
        ]
        drop(local_bus, "n")
        lines = said(lambda: logs.expect("drops", text="t", subscription="'m'", within=0.01))
        assert lines[:2] == [
            "no record 'drops' (text='t', subscription=\"'m'\") was logged within 0.01 s",
            "logged so far:",
        ]
        assert lines[2].startswith("  WARNING 'drops' (subscription=\"'n'\"): subscription 'n' drops events")

    def test_shows_the_last_of_many(self, logs: LogRecorder) -> None:
        reporter = Reporter()
        for number in range(30):
            reporter.warning(Kind.DROPS, "number %d", number, subscription="n")
        lines = said(lambda: logs.expect("rejected", within=0))
        reporter.close(PATIENCE)
        assert lines[2] == "  ... and 10 before"
        assert lines[-1] == "  WARNING 'drops': number 29"


class TestNothing:
    def test_passes_when_all_is_expected(self, local_bus: EventBus, logs: LogRecorder) -> None:
        drop(local_bus, "n")
        logs.expect("drops")
        logs.nothing()

    def test_names_what_was_logged(self, local_bus: EventBus, logs: LogRecorder) -> None:
        drop(local_bus, "n")
        assert said(logs.nothing)[0].startswith("logged, and not expected: WARNING 'drops': subscription 'n' drops")
        logs.nothing("disconnected")
        logs.nothing("drops", subscription="'m'")

    def test_waits_for_what_should_not_come(self, local_bus: EventBus, logs: LogRecorder) -> None:
        timer = threading.Timer(0.05 * UNIT, drop, (local_bus, "n"))
        timer.start()
        assert said(lambda: logs.nothing(within=PATIENCE))
        timer.join()

    def test_does_not_mind_informations(self, logs: LogRecorder) -> None:
        reporter = Reporter()
        with logs.at_info():
            reporter.info(Kind.RECONNECTED, "all is well")
        reporter.info(Kind.RECONNECTED, "this is not recorded")
        reporter.close(PATIENCE)
        logs.nothing()
        assert [one.levelname for one in logs.records] == ["INFO"]


def test_informations_are_recorded_where_they_are_asked_for(own_server: NATSServer) -> None:
    level = logger.level
    assert logger.getEffectiveLevel() > logging.INFO, "or this shows nothing"
    with LogRecorder() as logs, NATSEventBus(own_server.url) as bus:
        bus.start()
        with logs.at_info():
            own_server.restart()
            logs.expect("disconnected", within=PATIENCE)
            assert logs.expect("reconnected", within=PATIENCE).levelname == "INFO"
        assert logger.level == level


@pytest.mark.parametrize("level", [logging.DEBUG, logging.ERROR])
def test_the_level_of_the_program_stays(level: int, logs: LogRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logger, "level", level)
    with logs.at_info():
        assert logger.level == level


def test_what_the_program_has_logged_is_recorded(logs: LogRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(logger, "level", logging.INFO)
        logger.manager._clear_cache()  # type: ignore[attr-defined]  # of what is enabled at the level before
        reporter = Reporter()
        reporter.info(Kind.RECONNECTED, "all is well")
        reporter.close(PATIENCE)
        assert [one.levelname for one in logs.records] == ["INFO"]
    logger.manager._clear_cache()  # type: ignore[attr-defined]


def switch_off() -> None:
    logging.disable(logging.CRITICAL)


def set_up_anew() -> None:
    logging.config.dictConfig({"version": 1})  # which disables the loggers that there are


def set_up_all() -> None:
    logging.config.dictConfig({"version": 1, "loggers": {"aether_sync": {"level": "CRITICAL", "handlers": []}}})


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    loggers = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    before = [(one, one.disabled, one.level, list(one.handlers)) for one in (logging.root, *loggers)]
    disabled = logging.root.manager.disable
    yield
    logging.disable(disabled)
    for one, is_disabled, level, handlers in before:
        one.disabled, one.handlers = is_disabled, handlers
        one.setLevel(level)


@pytest.mark.parametrize("change", [switch_off, set_up_anew, set_up_all])
def test_what_the_program_does_with_logging_hides_nothing(
    change: Callable[[], None], local_bus: EventBus, logs: LogRecorder, logging_as_before: None
) -> None:
    change()
    drop(local_bus, "n")
    logs.expect("drops", within=PATIENCE)


def test_it_records_nothing_afterwards(local_bus: EventBus) -> None:
    with LogRecorder() as logs:
        pass
    drop(local_bus, "n")
    assert flush_logs()
    assert logs.records == ()
    assert repr(logs) == "<LogRecorder with 0 records>"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "dropped"}, "kind must be one of callback_failed, .*, not 'dropped'"),
        ({"kind": 5}, "kind must be one of"),
        ({"text": 5}, "text must be a str"),
        ({"within": -1}, "timeout must be seconds"),
        ({"consummer": "c"}, "a record has no attribute 'consummer': did you mean consumer"),
    ],
)
def test_a_wrong_argument_is_named(given: dict[str, Any], message: str, logs: LogRecorder) -> None:
    for work in (logs.expect, logs.nothing):
        with pytest.raises(InvalidOptionError, match=message):
            work(**{"kind": "drops", "within": 0, **given})


@pytest.mark.parametrize("kind", ["", None])
def test_a_record_of_any_kind_is_not_expected(kind: Any, logs: LogRecorder) -> None:
    with pytest.raises(InvalidOptionError, match="kind must be one of"):
        logs.expect(kind)
