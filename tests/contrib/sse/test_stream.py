"""Streams in one process: from where on they begin, what they send, and what ends them."""

import asyncio
import gc
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import pytest

from aether_sync import (
    ANY_VERSION,
    EventBus,
    EventStore,
    InMemoryEventStore,
    InvalidOptionError,
    JetStreamEventStore,
    NATSServer,
    StoreClosedError,
)
from aether_sync.contrib import sse
from aether_sync.contrib.sse import _store_stream, _tail

from ...support.common import PATIENCE, UNIT, eventually, first_of, make_event, run_threads
from ...support.pages import Message, messages_of
from ...support.stores import ask

MakeStream = Callable[..., sse.EventStream]

ON_A_SERVER = pytest.mark.parametrize("any_store", first_of(["jetstream", "memory"]), indirect=True)


def append(store: EventStore, numbers: Iterable[int]) -> None:
    for n in numbers:
        store.append(f"thing-{n}", make_event(n), expected_version=ANY_VERSION)


def got(stream: Iterator[bytes], count: int) -> list[Message]:
    """The next messages that a page sees."""
    found: list[Message] = []
    while len(found) < count:
        found += messages_of(next(stream))
    return found


def numbers(messages: Iterable[Message]) -> list[int]:
    return [json.loads(one.data)["data"]["n"] for one in messages]


# -- from where on


def test_it_goes_on_after_the_last_event_id(any_store: EventStore, stream: MakeStream) -> None:
    append(any_store, range(1, 4))
    events = stream(any_store, "1")
    first = got(events, 2)
    assert [one.last_event_id for one in first] == ["2", "3"]
    assert [one.name for one in first] == ["Happened"] * 2
    append(any_store, [4])
    assert numbers(first + got(events, 1)) == [2, 3, 4]
    assert numbers(got(stream(any_store, "0"), 4)) == [1, 2, 3, 4]


@pytest.mark.parametrize("nothing", [None, ""])
def test_without_an_id_it_begins_now(any_store: EventStore, stream: MakeStream, nothing: str | None) -> None:
    """That is when it is made, and what it sends first says where that is, before any event."""
    append(any_store, range(1, 4))
    events = stream(any_store, nothing)
    append(any_store, [4])
    assert b"\nid: 3\n\n" in next(events)
    assert numbers(got(events, 1)) == [4]


@pytest.mark.parametrize("bad", ["x", "-1", "1.0", " 1", "1\n", "\u0661", "9" * 19, "1" * 40])
def test_an_id_that_is_no_sequence(any_store: EventStore, bad: str) -> None:
    with pytest.raises(sse.LastEventIdError, match="Last-Event-ID"):
        sse.stream(any_store, bad)


@ON_A_SERVER
def test_an_id_ahead_of_the_store(any_store: EventStore, stream: MakeStream) -> None:
    append(any_store, range(1, 4))
    next(stream(any_store, "3"))
    with pytest.raises(sse.LastEventIdError, match="is 4, and the store ends at 3"):
        sse.stream(any_store, "4")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"last_event_id": 3}, "last_event_id"),
        ({"heartbeat": 0}, "heartbeat"),
        ({"event_types": "Happened"}, "event_types"),
        ({"actors": 3}, "actors"),
        ({"encode": "json"}, "encode"),
        ({"source": "store"}, "a store or a subscription"),
    ],
)
def test_wrong_arguments(memory_store: InMemoryEventStore, options: dict[str, object], what: str) -> None:
    with pytest.raises(InvalidOptionError, match=what) as raised:
        sse.stream(**{"source": memory_store, **options})  # type: ignore[arg-type]
    assert not isinstance(raised.value, sse.LastEventIdError)


# -- what is sent


def test_only_what_is_wanted_and_a_heartbeat_moves_the_id(any_store: EventStore, stream: MakeStream) -> None:
    append(any_store, [1, 2])
    events = stream(any_store, "0", actors="thing-2")
    assert numbers(got(events, 1)) == [2]
    append(any_store, [3, 4])
    while (beat := next(events)) == b":\n\n":
        pass
    assert beat in (b"id: 3\n\n", b"id: 4\n\n"), "a browser need not come back for these"
    append(any_store, [2])
    assert numbers(got(events, 1)) == [2]
    assert numbers(got(stream(any_store, "0", event_types={"Happened"}), 5)) == [1, 2, 3, 4, 2]


def test_what_the_page_gets(memory_store: InMemoryEventStore, stream: MakeStream) -> None:
    append(memory_store, [1, 2, 3])
    texts = {1: "a\nb", 2: None, 3: b"<p>"}
    events = stream(memory_store, "0", encode=lambda event: texts[event.data["n"]])
    assert got(events, 2) == [Message("1", "Happened", "a\nb"), Message("3", "Happened", "<p>")]
    failing = stream(memory_store, "0", encode=lambda event: 1 / 0)
    next(failing)
    with pytest.raises(ZeroDivisionError):
        next(failing)


def test_streams_share_one_follower(store: JetStreamEventStore, stream: MakeStream) -> None:
    append(store, [1])
    streams = [stream(store, "0") for _ in range(20)]
    assert [numbers(got(one, 1)) for one in streams] == [[1]] * 20
    assert len(store.metrics().followers) == 1
    assert len([one for one in threading.enumerate() if one.name.startswith("aether-sse")]) == 1


def test_metrics(memory_store: InMemoryEventStore) -> None:
    before = sse.metrics()
    append(memory_store, [1, 2])
    events = sse.stream(memory_store, "0")
    assert sse.metrics().open == before.open, "it is not read yet"
    got(events, 2)
    now = sse.metrics()
    assert (now.open, now.opened, now.sent, now.dropped) == (
        before.open + 1, before.opened + 1, before.sent + 2, before.dropped,
    )  # fmt: skip
    del events
    gc.collect()
    assert sse.metrics().open == before.open, "also if the server forgets to close it"


# -- the past, and what is slow


@pytest.mark.concurrent
def test_a_stream_of_the_past_joins_without_a_gap(
    any_store: EventStore, stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads pages until it is where the tail is, while events are stored."""
    monkeypatch.setattr(_tail, "_KEPT", 8)
    monkeypatch.setattr(_store_stream, "_PAGE", 3)
    monkeypatch.setattr(_store_stream, "_SECTION", 7)
    append(any_store, range(1, 40))
    found: dict[str, list[Message]] = {}

    def read(after: str) -> None:
        events = stream(any_store, after, heartbeat=5.0)
        found[after] = []
        while len(found[after]) < 120 - int(after):
            messages = messages_of(next(events, b"\n\n"))
            if events.closed:  # too slow for so few that are kept: as a browser, it comes back
                events = stream(any_store, found[after][-1].last_event_id, heartbeat=5.0)
            found[after] += messages

    run_threads(lambda: append(any_store, range(40, 121)), *(lambda n=n: read(str(n)) for n in (0, 17, 38)))  # type: ignore[misc]
    for after in (0, 17, 38):
        assert [int(one.last_event_id) for one in found[str(after)]] == list(range(after + 1, 121))
        assert numbers(found[str(after)]) == list(range(after + 1, 121))


def test_a_wanted_event_is_found_far_in_the_past(
    any_store: EventStore, stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tail, "_KEPT", 2)
    monkeypatch.setattr(_store_stream, "_SECTION", 3)
    append(any_store, range(1, 21))
    events = stream(any_store, "0", actors="thing-9")
    assert numbers(got(events, 1)) == [9]
    append(any_store, [9])
    assert numbers(got(events, 1)) == [9]


def test_a_slow_client_is_dropped_and_counted(
    any_store: EventStore, stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tail, "_KEPT", 4)
    slow, quick = stream(any_store), stream(any_store)
    for one in (slow, quick):
        assert next(one).startswith(b"retry:")
        assert next(one) == b":\n\n"
    dropped = sse.metrics().dropped
    for n in range(1, 10):
        append(any_store, [n])
        assert numbers(got(quick, 1)) == [n]
    assert list(slow) == []
    assert slow.closed
    assert sse.metrics().dropped == dropped + 1
    assert numbers(got(stream(any_store, "0"), 9)) == list(range(1, 10)), "it comes back, and has missed nothing"


@ON_A_SERVER
def test_who_wants_nothing_of_it_is_not_slow(
    any_store: EventStore, stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tail, "_KEPT", 4)
    one = stream(any_store, actors="other", heartbeat=0.5 * UNIT)
    next(one)
    reader = threading.Thread(target=next, args=(one,), daemon=True)
    reader.start()
    append(any_store, range(1, 10))
    reader.join(PATIENCE)
    append(any_store, [1])
    any_store.append("other", make_event(5, actor_id="other"), expected_version=0)
    assert numbers(got(one, 1)) == [5]


def test_who_waits_while_others_events_pass_by_is_not_slow(
    any_store: EventStore, stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is where the tail is as long as it waits, also when it is told at last."""
    monkeypatch.setattr(_tail, "_KEPT", 4)
    one = stream(any_store, actors="other", heartbeat=60.0)
    next(one)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(next(one, b"")), daemon=True)
    reader.start()
    eventually(lambda: one._cursor.readers.parked, "the wait")  # type: ignore[attr-defined]
    append(any_store, range(1, 10))
    any_store.append("other", make_event(5, actor_id="other"), expected_version=0)
    reader.join(PATIENCE)
    assert numbers(messages_of(found[0])) == [5]


# -- what ends it


def test_it_ends_with_the_store(any_store: EventStore, stream: MakeStream) -> None:
    events = stream(any_store, heartbeat=60.0)
    next(events)
    ended = threading.Event()
    reader = threading.Thread(target=lambda: (list(events), ended.set()), daemon=True)
    reader.start()
    eventually(lambda: events._cursor.readers.parked, "the wait")  # type: ignore[attr-defined]
    any_store.close()
    assert ended.wait(PATIENCE)
    with pytest.raises(StoreClosedError):
        sse.stream(any_store, "0")


def test_it_ends_when_another_thread_closes_it(memory_store: InMemoryEventStore, stream: MakeStream) -> None:
    events = stream(memory_store, heartbeat=60.0)
    next(events)
    reader = threading.Thread(target=list, args=(events,), daemon=True)
    reader.start()
    eventually(lambda: events._cursor.readers.parked, "the wait")  # type: ignore[attr-defined]
    events.close()
    reader.join(PATIENCE)
    assert not reader.is_alive()
    assert next(events, None) is None


@ON_A_SERVER
def test_the_tail_ends_after_the_last_stream(
    any_store: EventStore, stream: MakeStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tail, "_GRACE", 0.1)
    for count in (1, 2):  # and begins again
        append(any_store, [count])
        events = stream(any_store, "0")
        assert len(got(events, count)) == count
        assert any_store.metrics().followers
        events.close()
        eventually(lambda: not any_store.metrics().followers, "the end of the follower")
        assert _tail.tails.find(any_store) is None


@pytest.mark.slow
def test_a_store_that_was_made_anew(make_store: Callable[..., JetStreamEventStore], prefix: str) -> None:
    """The stream ends, and its browser, which comes back with an id of the old one, is told."""
    store = make_store()
    append(store, range(1, 6))
    events = sse.stream(store, "3", heartbeat=0.1)
    assert numbers(got(events, 2)) == [4, 5]
    ask(store, f"STREAM.DELETE.{prefix}")
    other = make_store()
    append(other, [1])
    eventually(lambda: next(events, None) is None, "the end of the stream")
    with pytest.raises(sse.LastEventIdError, match="is 5, and the store ends at 1"):
        sse.stream(other, "5")


def test_a_server_that_goes_away_and_comes_back(own_server: NATSServer) -> None:
    """Streams that are open go on; one that is begun meanwhile has events as soon as there are some."""
    with JetStreamEventStore(own_server.url, "s", connect="background") as store:
        append(store, [1])
        before = sse.stream(store, "0", heartbeat=0.1)
        assert numbers(got(before, 1)) == [1]
        own_server.stop()
        eventually(lambda: not store.health(timeout=0).ok, "the loss")
        meanwhile, ahead, new = (sse.stream(store, one, heartbeat=0.1) for one in ("1", "5", None))
        assert b"id: 1\n" in next(meanwhile)
        assert next(meanwhile) == b":\n\n"
        next(ahead), next(new)
        own_server.start()
        append(store, [2])
        for one in (before, meanwhile, new):
            assert numbers(got(one, 1)) == [2]
        assert [one for one in ahead if one != b":\n\n"] == [], (
            "it is ended, and its browser is told when it comes back"
        )


@pytest.mark.slow
def test_a_browser_that_came_while_the_server_was_away_is_told_where_it_is_at_once(own_server: NATSServer) -> None:
    """A loss of its connection before the first event must not let it begin anew, at a later end of the store."""
    with JetStreamEventStore(own_server.url, "s", connect="background") as store:
        append(store, [1])
        own_server.stop()
        eventually(lambda: not store.health(timeout=0).ok, "the loss")
        new = sse.stream(store, heartbeat=60.0)
        assert b"id:" not in next(new)
        own_server.start()
        assert next(new) == b"id: 1\n\n"
        append(store, [2])
        assert numbers(got(new, 1)) == [2]
        new.close()


@pytest.mark.slow
def test_an_empty_store_that_was_away_has_a_place_too(own_server: NATSServer) -> None:
    own_server.stop()
    with JetStreamEventStore(own_server.url, "s", connect="background") as store:
        new = sse.stream(store, heartbeat=60.0)
        next(new)
        own_server.start()
        assert next(new) == b"id: 0\n\n"
        append(store, [1])
        assert numbers(got(new, 1)) == [1]
        new.close()


def test_in_a_forked_child(store: JetStreamEventStore, stream: MakeStream) -> None:
    """The parent's stream is closed there, and one of the child's own works."""
    append(store, [1])
    parents = stream(store, "0")
    assert numbers(got(parents, 1)) == [1]
    pid = os.fork()
    if not pid:
        try:
            ok = next(parents, None) is None and sse.metrics().opened == 0
            own = sse.stream(store, "0", heartbeat=0.1)
            ok = ok and numbers(got(own, 1)) == [1] and sse.metrics().open == 1
            os._exit(0 if ok else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    append(store, [2])
    assert numbers(got(parents, 1)) == [2]


# -- coroutines


def test_a_coroutine_reads_it(any_store: EventStore, stream: MakeStream) -> None:
    async def read() -> list[Message]:
        found: list[Message] = []
        async for chunk in await asyncio.to_thread(stream, any_store, "0", heartbeat=5.0):
            found += messages_of(chunk)
            if len(found) == 2:
                await asyncio.to_thread(append, any_store, [3])
            if len(found) >= 3:
                break
        return found

    append(any_store, [1, 2])
    assert numbers(asyncio.run(read())) == [1, 2, 3]


def test_a_coroutine_that_is_cancelled_closes_it(memory_store: InMemoryEventStore, stream: MakeStream) -> None:
    events = stream(memory_store, heartbeat=60.0)

    async def read() -> None:
        task = asyncio.create_task(anext(chunks := aiter(events)))  # type: ignore[arg-type]
        assert (await task).startswith(b"retry")
        task = asyncio.create_task(anext(chunks))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not hasattr(chunks, "__iter__"), "Django would take that"

    asyncio.run(read())
    assert events.closed


# -- a bus


def test_of_a_subscription(local_bus: EventBus, stream: MakeStream) -> None:
    subscription = local_bus.subscribe("shop.*")
    events = stream(subscription, "17")
    next(events)
    local_bus.publish_many("shop.eu", [make_event(1), make_event(2)])
    messages = got(events, 2)
    assert [one.last_event_id for one in messages] == ["", ""], "there is nothing that a browser could come back for"
    assert numbers(messages) == [1, 2]
    assert json.loads(messages[0].data)["namespace"] == "shop.eu"
    assert next(events) == b":\n\n"
    events.close()
    assert subscription.closed, "it belonged to the stream"


def test_a_slow_client_of_a_subscription(local_bus: EventBus, stream: MakeStream) -> None:
    events = stream(local_bus.subscribe("shop.*", maxsize=2, overflow="fail"))
    next(events)
    dropped = sse.metrics().dropped
    for n in range(5):
        local_bus.publish("shop.eu", make_event(n))
    assert numbers(message for chunk in events for message in messages_of(chunk)) == [0, 1]
    assert sse.metrics().dropped == dropped + 1


def test_a_subscription_that_is_closed(local_bus: EventBus, stream: MakeStream) -> None:
    subscription = local_bus.subscribe("shop.*")
    events = stream(subscription)
    local_bus.publish("shop.eu", make_event(1))
    subscription.close()
    assert numbers(message for chunk in islice(events, 5) for message in messages_of(chunk)) == [1]


def test_a_coroutine_reads_a_subscription(local_bus: EventBus, stream: MakeStream) -> None:
    async def read() -> list[bytes]:
        chunks = aiter(stream(local_bus.subscribe("shop.*")))
        found = [await anext(chunks), await anext(chunks)]
        local_bus.publish("shop.eu", make_event(1))
        found += [await anext(chunks)]
        await chunks.aclose()  # type: ignore[attr-defined]
        return found

    opening, beat, event = asyncio.run(read())
    assert opening.startswith(b"retry")
    assert beat == b":\n\n"
    assert numbers(messages_of(event)) == [1]


def test_a_subscription_has_its_own_filter(local_bus: EventBus) -> None:
    with local_bus.subscribe("shop.*") as subscription, pytest.raises(InvalidOptionError, match="its own filter"):
        sse.stream(subscription, actors="a")
