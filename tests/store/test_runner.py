"""The runner: handlers on threads of its own, each actor's events in order, failures tried again and then given up."""

import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from functools import partial, wraps
from itertools import count
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest

from aether_sync import (
    DeadlineExceededError,
    Event,
    InvalidOptionError,
    JetStreamEventStore,
    MalformedRecordError,
    NATSCluster,
    NATSServer,
    PermissionDeniedError,
    flush_logs,
)
from aether_sync._runtime.deadline import Deadline
from aether_sync.stores.consumers import lanes
from aether_sync.stores.consumers.dead_letters import DeadLetterStream
from aether_sync.stores.consumers.delivery import Delivery

from ..contracts.store.running import QUICK, Recorder
from ..programs import consumers as programs
from ..programs.run import run
from ..support.common import PATIENCE, UNIT, eventually, first_of
from ..support.inside import held_by, names_of, scheduler_of
from ..support.proxy import Proxy
from ..support.raw import RawClient
from ..support.stores import ACK_WAIT, save

MakeStore = Callable[..., JetStreamEventStore]

pytestmark = pytest.mark.concurrent


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    """What handlers wait for; set at the latest when the test ends."""
    event = threading.Event()
    yield event
    event.set()


class TestOrder:
    def test_an_earlier_event_that_comes_again_comes_first(
        self,
        store: JetStreamEventStore,
        go_on: threading.Event,
    ) -> None:
        save(store, 4, actors=1)
        recorder = Recorder()
        with store.consumer("c").iterate() as events:
            taken = [events.get(timeout=PATIENCE) for _ in range(2)]
            taken[0].ack(confirm=True)
            with store.consumer("c").run(lambda one: (go_on.wait(PATIENCE), recorder(one))) as runner:
                events.close()  # 3 and 4 come again
                eventually(lambda: len(held_by(runner)) == 2)
                taken[1].nak()
                eventually(lambda: len(held_by(runner)) == 3)
                go_on.set()
                store.consumer("c").wait_for(4, timeout=PATIENCE)
        assert recorder.handled["a-0"][1:] == sorted(recorder.handled["a-0"][1:])

    def test_it_holds_no_more_than_it_may(
        self,
        store: JetStreamEventStore,
        go_on: threading.Event,
    ) -> None:
        save(store, 100)
        with store.consumer("c").run(lambda _: go_on.wait(PATIENCE), prefetch=8) as runner:
            eventually(lambda: store.consumers()[0].unacknowledged == 16)
            assert len(held_by(runner)) == 8
            go_on.set()
            store.consumer("c").wait_for(100, timeout=PATIENCE)


class TestOneActorsTroubles:
    @pytest.mark.parametrize("prefetch", first_of([2, 16]))
    @pytest.mark.parametrize("what", ["fails", "takes long"])
    def test_they_hold_nobody_up(
        self, store: JetStreamEventStore, go_on: threading.Event, what: str, prefetch: int
    ) -> None:
        save(store, 150, actors=1, actor_id="bad-1")
        save(store, 2, actors=2)
        recorder = Recorder(lambda one: what == "fails" and one.sequence == 1 and recorder.tries[1] == 1)

        def handle(delivery: Delivery) -> None:
            if what == "takes long" and delivery.sequence == 1:
                go_on.wait(PATIENCE)
            recorder(delivery)

        with store.consumer("c", ack_wait=UNIT, max_deliver=2).run(
            handle, threads=2, prefetch=prefetch, retry_delay=3 * UNIT
        ):
            eventually(lambda: {151, 152} <= set(recorder.sequences()), "those behind")
            assert recorder.handled["bad-1"] == []
            go_on.set()
            store.consumer("c").wait_for(152, timeout=PATIENCE)
        assert recorder.handled["bad-1"] == list(range(1, 151))
        assert {sequence: tries for sequence, tries in recorder.tries.items() if tries > 1} == (
            {1: 2} if what == "fails" else {}
        )
        assert store.consumer("c").dead_letters() == []

    def test_what_is_here_beyond_the_bound_is_read_again(
        self, make_store: MakeStore, go_on: threading.Event, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store, read = make_store(), DeadLetterStream.event
        failing = [DeadlineExceededError("not now"), MalformedRecordError("gone", 9, b"")]

        def event(self: DeadLetterStream, sequence: int, deadline: Deadline) -> Event:
            if sequence == 9 and failing:
                raise failing.pop(0)
            return read(self, sequence, deadline)

        monkeypatch.setattr(DeadLetterStream, "event", event)
        monkeypatch.setattr(lanes, "_AGAIN", QUICK)
        save(store, 10, actors=1)
        recorder = Recorder()
        with store.consumer("c").run(
            lambda one: (go_on.wait(PATIENCE), recorder(one)), threads=2, prefetch=2, retry_delay=QUICK
        ) as runner:
            eventually(lambda: len(held_by(runner)) == 10, "all of them")
            assert sum(not one._has_event for one in held_by(runner).values()) == 8
            go_on.set()
            store.consumer("c").wait_for(10, timeout=PATIENCE)
        assert recorder.handled == {"a-0": list(range(1, 11))}
        assert not failing


def lose(proxy: Proxy, store: JetStreamEventStore, direct: JetStreamEventStore, make: Callable[[], object]) -> None:
    """Break the link of a store when the server has sent it what is made."""
    before = direct.consumers()[0].delivered
    proxy.mute()
    make()
    eventually(lambda: direct.consumers()[0].delivered > before, "the server to send them")
    proxy.cut()
    eventually(lambda: not store.connection.is_connected, "the end of the link")
    proxy.restore()
    assert store.connection.wait_connected(PATIENCE)


@pytest.mark.fault
class TestABrokenLink:
    @pytest.mark.parametrize(("at_once", "losses"), first_of([(7, 1), (7, 2), (1, 2)]))
    def test_it_changes_no_actors_order(
        self, make_store: MakeStore, server: NATSServer, at_once: int, losses: int
    ) -> None:
        direct = make_store()
        numbers = count()

        def go_on(events: int) -> None:
            for _ in range(events // at_once):
                news = [next(numbers) for _ in range(at_once)]
                direct.save_events(Event(event_type="Done", actor_id=f"a-{n % 3}", version=n // 3 + 1) for n in news)

        recorder = Recorder()
        with Proxy(server.port) as proxy:
            store = make_store(proxy.url)
            with store.consumer("c", ack_wait=2 * UNIT, max_deliver=50).run(recorder, prefetch=30):
                go_on(42)
                direct.consumer("c").wait_for(42, timeout=PATIENCE)
                for end in (84, 126)[:losses]:
                    lose(proxy, store, direct, lambda: go_on(21))
                    go_on(21)
                    eventually(lambda end=end: len(recorder.sequences()) >= end, "all")
                    # An event whose acknowledgement is on its way when the link breaks rightly comes again.
                    direct.consumer("c").wait_for(end, timeout=PATIENCE)
            store.close()
        recorder.check_order()
        assert recorder.sequences() == list(range(1, end + 1))

    def test_others_do_not_wait(self, make_store: MakeStore, server: NATSServer) -> None:
        direct, recorder = make_store(), Recorder()
        with Proxy(server.port) as proxy:
            store = make_store(proxy.url)
            with store.consumer("c", ack_wait=3 * UNIT).run(recorder):
                save(direct, 2, actors=2)
                direct.consumer("c").wait_for(2, timeout=PATIENCE)
                late = Event(event_type="Done", actor_id="a-0", version=2)
                lose(proxy, store, direct, lambda: direct.save_event(late))
                direct.save_event(late.following(event_type="Done", actor_id="a-0", version=3))
                direct.save_event(late.following(event_type="Done", actor_id="a-1", version=2))
                eventually(lambda: recorder.sequences() == [1, 2, 5], "the other actor's")
                direct.consumer("c").wait_for(5, timeout=PATIENCE)
            store.close()
        assert recorder.handled == {"a-0": [1, 3, 4], "a-1": [2, 5]}

    def test_nobody_waits_for_what_others_may_have(self, make_store: MakeStore, server: NATSServer) -> None:
        direct, here = make_store(), Recorder()
        with Proxy(server.port) as proxy:
            store = make_store(proxy.url)
            with (
                store.consumer("c", ack_wait=30 * UNIT).run(here, prefetch=1) as runner,
                direct.consumer("c", ack_wait=30 * UNIT).run(lambda _: None, prefetch=1) as there,
            ):
                save(direct, 200, actors=200)
                direct.consumer("c").wait_for(200, timeout=PATIENCE)
                assert scheduler_of(runner).consumption._arrivals._has_company()
                there.close()
                late = Event(event_type="Done", actor_id="a-0", version=2)
                lose(proxy, store, direct, lambda: direct.save_event(late))
                direct.save_event(late.following(event_type="Done", actor_id="a-0", version=3))
                eventually(lambda: here.handled["a-0"][-1:] == [202], "the later one")
            store.close()


class TestFailures:
    def test_it_is_given_up_when_the_dead_letter_stream_can_be_reached(
        self, store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        bury, refusals = DeadLetterStream.bury, 2

        def refuse(self: DeadLetterStream, *about: Any) -> None:
            nonlocal refusals
            if refusals:
                refusals -= 1
                raise DeadlineExceededError("no leader")
            bury(self, *about)

        monkeypatch.setattr(DeadLetterStream, "bury", refuse)
        monkeypatch.setattr(lanes, "_AGAIN", QUICK)
        save(store, 2, actors=1)
        recorder = Recorder(lambda one: one.sequence == 1)
        with store.consumer("c", max_deliver=1, ack_wait=ACK_WAIT).run(recorder):
            store.consumer("c").wait_for(2, timeout=PATIENCE)
        assert (recorder.tries, recorder.handled["a-0"]) == ({1: 1, 2: 1}, [2])
        assert [(one.sequence, one.attempts) for one in store.consumer("c").dead_letters()] == [(1, 1)]
        assert flush_logs(PATIENCE)
        assert "not in the dead-letter stream yet: no leader" in caplog.text

    def test_what_a_handler_rejects_has_its_reason(
        self, store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bury, refusals = DeadLetterStream.bury, [DeadlineExceededError("no leader")]

        def refuse(self: DeadLetterStream, *about: Any) -> None:
            if refusals:
                raise refusals.pop()
            bury(self, *about)

        monkeypatch.setattr(DeadLetterStream, "bury", refuse)
        save(store, 2)
        reasons = {1: "no", 2: "too long " * 100_000}
        handled: list[int] = []

        def handle(delivery: Delivery) -> None:
            handled.append(delivery.sequence)
            delivery.reject(reasons[delivery.sequence])

        with store.consumer("c", ack_wait=ACK_WAIT).run(handle, threads=1):
            store.consumer("c").wait_for(2, timeout=PATIENCE)
        assert handled == [1, 2]
        assert [one.reason[:11] for one in store.consumer("c").dead_letters()] == ["no", "too long to"]

    def test_what_a_handler_gives_back_may_come_before_it_has_ended(self, store: JetStreamEventStore) -> None:
        store.start()
        attempts: list[int] = []

        def handle(delivery: Delivery) -> None:
            attempts.append(delivery.attempt)
            if delivery.attempt == 1:
                delivery.nak()
                eventually(lambda: held_by(runner)[1] is not delivery, "the second delivery")

        with store.consumer("c", start="new").run(handle, threads=1) as runner:
            store.save_event(Event(event_type="Done", actor_id="a-0", version=1))
            store.consumer("c").wait_for(1, timeout=PATIENCE)
        assert attempts == [1, 2]

    def test_a_handler_begins_with_all_of_the_ack_wait(self, store: JetStreamEventStore, server: NATSServer) -> None:
        save(store, 2, actors=1)
        with RawClient(server.port) as witness:
            witness.subscribe(f"$JS.ACK.{names_of(store).stream}.c.>")
            witness.flush()
            with store.consumer("c", ack_wait=10 * UNIT).run(
                lambda one: time.sleep(1.0 * UNIT if one.sequence == 1 else 0)
            ):
                store.consumer("c").wait_for(2, timeout=PATIENCE)
            told = []
            while told[-1:] != [("2", b"+ACK")]:
                subject, word = witness.next_message()
                told.append((subject.split(".")[5], word))
        assert told == [("1", b"+ACK"), ("2", b"+WPI"), ("2", b"+ACK")]


class TestItsEnd:
    def test_orderly_restarts_cost_no_event(self, make_store: MakeStore) -> None:
        """Each delivery counts at the server, whether a handler saw it or not."""
        save(make_store(), 60, actors=60)
        recorder, seen = Recorder(), threading.Semaphore(0)

        def handle(delivery: Delivery) -> None:
            seen.release()
            time.sleep(0.05 * UNIT)
            recorder(delivery)

        for _ in range(6):
            with make_store() as store, store.consumer("c").run(handle, threads=2):
                for _ in range(5):
                    assert seen.acquire(timeout=PATIENCE)
        with make_store() as store, store.consumer("c").run(recorder):
            store.consumer("c").wait_for(60, timeout=PATIENCE)
            assert store.consumer("c").dead_letters() == []
        assert recorder.sequences() == list(range(1, 61))

    @pytest.mark.slow
    def test_it_holds_as_many_as_it_handles_in_a_moment(self, store: JetStreamEventStore) -> None:
        pause = 0.0
        save(store, 1_000, actors=1_000)
        with store.consumer("c", max_deliver=50).run(lambda _: time.sleep(pause), threads=2, prefetch=64) as runner:
            scheduler = runner._scheduler
            assert scheduler._capacity <= 64
            eventually(lambda: scheduler._capacity == 64, "that it takes more")
            pause = 2 * UNIT / 16
            store.save_events([Event(event_type="Done", actor_id=f"later-{n}", version=1) for n in range(200)])
            eventually(lambda: scheduler._capacity == 32, "that it takes less")
            assert scheduler.consumption._requester.window == 32

    def test_what_had_its_last_delivery_is_given_up_with_the_reason(
        self, store: JetStreamEventStore, go_on: threading.Event, caplog: pytest.LogCaptureFixture
    ) -> None:
        save(store, 10, actors=10)
        consumer = store.consumer("c", max_deliver=1)
        runner = consumer.run(lambda _: go_on.wait(PATIENCE), threads=2)
        eventually(lambda: len(runner._scheduler._held) == 4 and len(runner._scheduler.consumption._arrivals.arrived))
        threading.Timer(0.1 * UNIT, go_on.set).start()
        assert runner.close(PATIENCE)
        eventually(lambda: len(consumer.dead_letters()) >= 2)
        letters = consumer.dead_letters()
        assert {one.reason for one in letters} == {
            "its last delivery (max_deliver is 1) was given back by a close, before its turn"
        }
        assert {one.attempts for one in letters} == {1}
        assert flush_logs(PATIENCE)
        records = [one for one in caplog.records if one.kind == "gave_up"]  # type: ignore[attr-defined]
        assert sum(one.counts["events"] for one in records) == len(letters)  # type: ignore[attr-defined]
        assert {one.consumer for one in records} == {"c"}  # type: ignore[attr-defined]

    @pytest.mark.parametrize("how", first_of(["works", "hangs"]))
    def test_the_process_ends(self, store: JetStreamEventStore, server: NATSServer, how: str) -> None:
        save(store, 1)
        says = "unclosed <Connection" if how == "works" else None
        output = run(programs.ends_while_running, server.url, names_of(store).stream, how, says=says)
        assert ("handled" in output) == (how == "works")

    @pytest.mark.slow
    @pytest.mark.fault
    def test_it_goes_on_after_a_restart(self, make_store: MakeStore, own_server: NATSServer) -> None:
        store = make_store(own_server.url)
        save(store, 400)
        recorder = Recorder()
        with store.consumer("c", ack_wait=2 * UNIT, max_deliver=20).run(recorder):
            eventually(lambda: len(recorder.sequences()) > 100)
            own_server.restart()
            store.consumer("c").wait_for(400, timeout=PATIENCE)
        assert set(recorder.sequences()) == set(range(1, 401))

    @pytest.mark.slow
    @pytest.mark.fault
    def test_it_goes_on_while_the_servers_of_a_cluster_change(self, make_store: MakeStore) -> None:
        with NATSCluster(3) as cluster:
            cluster.wait_ready(PATIENCE)
            store = make_store(cluster.url, replicas=3)
            save(store, 1_000)
            recorder = Recorder(lambda delivery: delivery.sequence % 100 == 0)
            consumer = store.consumer("c", ack_wait=2 * UNIT, max_deliver=10)
            with consumer.run(recorder, retry_delay=QUICK, timeout=PATIENCE):
                for part, server in enumerate(cluster.servers, 1):
                    eventually(lambda part=part: len(recorder.sequences()) >= 200 * part)  # type: ignore[misc]
                    server.kill()
                    server.start()
                    cluster.wait_ready(PATIENCE)
                store.consumer("c").wait_for(1_000, timeout=2 * PATIENCE)
            assert set(recorder.sequences()) == {n for n in range(1, 1_001) if n % 100}
            assert [one.sequence for one in store.consumer("c").dead_letters(timeout=PATIENCE)] == list(
                range(100, 1_001, 100)
            )


async def a_coroutine(_: Delivery) -> None: ...


def a_generator(_: Delivery) -> Iterator[None]:
    yield


class Asynchronous:
    async def __call__(self, _: Delivery) -> None: ...


@pytest.mark.parametrize("handler", [a_coroutine, a_generator, Asynchronous(), partial(a_coroutine)])
def test_what_nobody_would_run_is_refused(store: JetStreamEventStore, handler: Any) -> None:
    with pytest.raises(InvalidOptionError, match="pass a plain function"):
        store.consumer("c").run(handler)


@wraps(a_coroutine)
def a_decorated_coroutine(*args: Any) -> Any:
    return a_coroutine(*args)


async def an_asynchronous_generator(_: Delivery) -> AsyncIterator[None]:
    yield


class Awaited:
    def __await__(self) -> Iterator[None]:
        return iter(())


@pytest.mark.filterwarnings("error")  # that a coroutine was never awaited
@pytest.mark.parametrize(
    "handler",
    [
        a_decorated_coroutine,
        lambda one: a_coroutine(one),
        lambda one: a_generator(one),
        lambda one: an_asynchronous_generator(one),
        lambda _: Awaited(),
    ],
)
def test_to_return_what_nobody_runs_is_a_failure(
    store: JetStreamEventStore, caplog: pytest.LogCaptureFixture, handler: Any
) -> None:
    save(store, 1)
    consumer = store.consumer("c", max_deliver=2)
    with consumer.run(handler, retry_delay=QUICK):
        consumer.wait_for(1, timeout=PATIENCE)
    (letter,) = consumer.dead_letters()
    assert letter.attempts == 2
    assert "InvalidOptionError: the handler has returned <" in letter.reason
    assert "nobody runs" in letter.reason
    assert flush_logs(PATIENCE)
    assert [record.kind for record in caplog.records] == ["handler_failed", "gave_up"]  # type: ignore[attr-defined]
    gc.collect()


@pytest.mark.parametrize("handler", [Mock(), lambda _: Mock(), lambda _: Future(), MagicMock()])
def test_it_may_return_anything_else(store: JetStreamEventStore, handler: Any) -> None:
    save(store, 1)
    consumer = store.consumer("c")
    with consumer.run(handler):
        consumer.wait_for(1, timeout=PATIENCE)
    assert consumer.dead_letters() == []


@pytest.mark.parametrize("handler", [lambda: 1, lambda one, two: 1, Recorder().sequences])
def test_what_does_not_take_a_delivery_is_refused(store: JetStreamEventStore, handler: Any) -> None:
    with pytest.raises(InvalidOptionError, match="a Delivery or an Event"):
        store.consumer("c").run(handler)
    assert not store.connection.is_connected


def injected(delivery: Delivery, database: object) -> None: ...


@wraps(injected)
def injecting(delivery: Delivery) -> None:
    injected(delivery, object())


@pytest.mark.parametrize(
    "handler", [print, injecting, lambda *_, **more: 1, lambda one, two=2: 1, lambda *, one: 1, [].append, Mock()]
)
def test_whatever_takes_one_argument_is_a_handler(store: JetStreamEventStore, handler: Any) -> None:
    store.consumer("c").run(handler).close()


@pytest.mark.parametrize(
    "wrong",
    [{"handler": None}, {"threads": 0}, {"retry_delay": 0}, {"prefetch": 0}, {"timeout": -1}],
    ids=str,
)
def test_what_cannot_be_is_refused(store: JetStreamEventStore, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError):
        store.consumer("c").run(**{"handler": print} | wrong)
    assert not store.connection.is_connected


# -- who may not acknowledge


@pytest.fixture
def mute() -> Iterator[tuple[JetStreamEventStore, JetStreamEventStore]]:
    """Two stores of one stream; the user of the second one may do all but acknowledge."""
    config = """
    authorization { users: [
      { user: all, password: p },
      { user: mute, password: p, permissions: { publish: { allow: ">", deny: "$JS.ACK.>" } } }
    ] }
    """
    with NATSServer(config=config) as server:
        urls = [server.url.replace("//", f"//{user}:p@") for user in ("all", "mute")]
        with JetStreamEventStore(urls[0]) as one, JetStreamEventStore(urls[1]) as other:
            yield one, other


def test_who_may_not_acknowledge_ends(
    mute: tuple[JetStreamEventStore, JetStreamEventStore], caplog: pytest.LogCaptureFixture
) -> None:
    """To go on would have each event handled five times, and then become a dead letter, in silence."""
    able, store = mute
    save(able, 3)
    handled = Recorder()
    with store.consumer("c", ack_wait=ACK_WAIT).run(handled) as runner:
        with pytest.raises(PermissionDeniedError, match=r"'\$JS\.ACK\.events\.c\.>'"):
            runner.wait(PATIENCE)
        found = runner.health()
        assert (found.ok, found.alive) == (False, False)
        assert "grant its user that right" in found.reasons[0]
        assert flush_logs()
        assert [one.kind for one in caplog.records] == ["runner_ended"]
        assert set(handled.tries.values()) == {1}
        assert runner.metrics().dead_letters == 0
    with able.consumer("c", ack_wait=ACK_WAIT).iterate() as events:  # whoever may goes on
        assert {events.get(timeout=PATIENCE).sequence for _ in range(3)} == {1, 2, 3}


def test_what_had_its_last_delivery_where_nobody_may_acknowledge(
    mute: tuple[JetStreamEventStore, JetStreamEventStore],
) -> None:
    able, store = mute
    save(able, 3)
    with store.consumer("c", ack_wait=ACK_WAIT, max_deliver=1).run(lambda _: None) as runner:
        with pytest.raises(PermissionDeniedError):
            runner.wait(PATIENCE)
        eventually(lambda: runner.metrics().dead_letters == 3)
    eventually(lambda: len(able.consumer("c", ack_wait=ACK_WAIT, max_deliver=1).dead_letters()) == 3)
    assert runner.metrics().dead_letters == 3


def test_a_handler_that_waits_for_the_confirmation_is_not_called_again(
    mute: tuple[JetStreamEventStore, JetStreamEventStore],
) -> None:
    able, store = mute
    save(able, 1)
    calls = []

    def handle(delivery: Delivery) -> None:
        calls.append(delivery.attempt)
        delivery.ack(confirm=True, timeout=PATIENCE)

    with store.consumer("c").run(handle, retry_delay=UNIT) as runner, pytest.raises(PermissionDeniedError):
        runner.wait(PATIENCE)
    assert calls == [1]


def test_what_is_given_back_in_vain_is_logged(
    mute: tuple[JetStreamEventStore, JetStreamEventStore], caplog: pytest.LogCaptureFixture
) -> None:
    able, store = mute
    save(able, 3)
    with store.consumer("c", ack_wait=PATIENCE).iterate() as events:
        events.get(timeout=PATIENCE)
    eventually(lambda: flush_logs() and any(one.kind == "server_error" for one in caplog.records))


def test_an_iterator_does_not_go_on_when_nobody_hears_its_words(
    mute: tuple[JetStreamEventStore, JetStreamEventStore],
) -> None:
    able, store = mute
    save(able, 20)
    with store.consumer("c").iterate() as first:
        store.consumer("c").iterate().close()  # which does not keep the first from hearing of it
        first.get(timeout=PATIENCE).ack()
        with pytest.raises(PermissionDeniedError, match="grant its user that right"):  # whatever has arrived
            for _ in range(1000):
                time.sleep(0.01)
                first.get(timeout=PATIENCE)


def test_a_refusal_that_nobody_waits_for_is_logged(
    mute: tuple[JetStreamEventStore, JetStreamEventStore], caplog: pytest.LogCaptureFixture
) -> None:
    able, store = mute
    save(able, 1)
    with store.consumer("c", ack_wait=ACK_WAIT).iterate() as events:
        delivery = events.get(timeout=PATIENCE)
    with store.consumer("c", ack_wait=ACK_WAIT).iterate():
        pass
    time.sleep(ACK_WAIT)  # the words of both have ended
    caplog.clear()
    delivery._settler.acknowledge(delivery._receipt)
    eventually(lambda: flush_logs() and any(one.kind == "server_error" for one in caplog.records))
    assert "$JS.ACK" in caplog.text.upper()
