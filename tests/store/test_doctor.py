"""The doctor's findings, of answers that are made up; what a server answers is asked in ``test_cli_store``."""

from dataclasses import replace
from typing import Any

import pytest

from aether_sync._nats.client import TLSState
from aether_sync.stores._jetstream.error_codes import ErrorCode
from aether_sync.stores._jetstream.names import Names
from aether_sync.stores._jetstream.saves import TornSave
from aether_sync.stores._jetstream.stream import settings
from aether_sync.stores.doctor.checks import examine
from aether_sync.stores.doctor.faults import FAULTS, NEWEST_FIX, faults_of
from aether_sync.stores.doctor.findings import Answers, Finding, Level, first_line, is_well

GIB = 2**30
DAY = 86_400.0
WANTED = settings(Names("events", None), 3)
CONFIG = WANTED | {"max_bytes": 10 * GIB, "max_msgs": -1, "max_msg_size": -1, "compression": "s2"}
STATE = {"messages": 1_000, "bytes": GIB, "num_subjects": 10, "first_seq": 1, "last_seq": 1_000}
CLUSTER = {
    "name": "c",
    "leader": "n1",
    "replicas": [{"name": "n2", "current": True, "lag": 0}, {"name": "n3", "current": True, "lag": 0}],
}
CONSUMER = {"name": "projector", "num_pending": 5, "num_redelivered": 0, "num_ack_pending": 1}

#: Of a store with which everything is well.
WELL = Answers(
    wanted=WANTED,
    server={
        "server_id": "N1",
        "version": "2.14.5",
        "max_payload": 2**20,
        "cluster": "c",
        "auth_required": True,
        "client_ip": "10.0.0.9",
    },
    user={"data": {"user": "shop", "account": "A"}},
    tls=TLSState("TLSv1.3", True, True, 100 * DAY),
    account={"streams": 3, "storage": GIB, "limits": {"max_storage": 100 * GIB, "max_streams": -1}},
    stream={"config": CONFIG, "state": STATE, "cluster": CLUSTER},
    snapshots={"config": {"name": "events~snapshots", "num_replicas": 3}},
    dead_letters={"error": {"err_code": ErrorCode.JSStreamNotFoundErr}},
    consumers=[CONSUMER | {"config": {"max_ack_pending": 1_000}}],
    round_trip=0.0004,
    skew=0.01,
    health={"status": "ok"},
    monitor_url="http://n1:8222",
    monitor={
        "server_name": "n1",
        "server_id": "N1",
        "jetstream": {"config": {"sync_always": True, "max_storage": 100 * GIB}, "stats": {"storage": GIB}},
    },
)


def stream(config: dict[str, Any] | None = None, state: dict[str, Any] | None = None, **cluster: Any) -> dict[str, Any]:
    return {"config": CONFIG | (config or {}), "state": STATE | (state or {}), "cluster": CLUSTER | cluster}


def troubles(**changes: Any) -> list[Finding]:
    return [one for one in examine(replace(WELL, **changes)) if one.level is not Level.OK]


def test_all_is_well() -> None:
    assert troubles() == []
    assert is_well(examine(WELL))


def test_every_trouble_says_what_to_do() -> None:
    found = troubles(
        server={},
        account={},
        monitor_url="",
        monitor={},
        skew=5,
        round_trip=1,
        stream=stream({"retention": "interest"}),
    )
    assert len(found) > 4
    assert all(one.advice for one in found)
    assert first_line(found[0]).startswith("warn  server: ")


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("2.10.29", Level.BAD),
        ("2.11.9", Level.WARN),
        ("2.12.13", Level.WARN),
        ("2.12.14", Level.WARN),
        ("2.12.15", None),
        ("2.14.4", Level.WARN),
        ("2.14.5", None),
        ("2.15-dev", None),
        ("v3.0.0", None),
        ("", Level.WARN),
        ("new", Level.WARN),
    ],
)
def test_versions(version: str, level: Level | None) -> None:
    found = troubles(server=WELL.server | {"version": version})
    assert {one.level for one in found} == (set() if level is None else {level})
    assert {one.topic for one in found} <= {"server"}


@pytest.mark.parametrize(
    ("version", "stops"), [("2.11.11", False), ("2.12.0", True), ("2.12.1", True), ("2.12.2", False), ("2.14.0", False)]
)
def test_a_server_that_stops_answering_is_named(version: str, stops: bool) -> None:
    said = [str(one) for one in troubles(server=WELL.server | {"version": version})]
    assert any("may stop answering" in one for one in said) == stops


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        (
            {"account": {"error": {"description": "not enabled", "err_code": ErrorCode.JSNotEnabledForAccountErr}}},
            Level.BAD,
            "none for this user",
        ),
        ({"account": {"error": {"description": "no permission", "err_code": 0}}}, Level.WARN, "no permission"),
        (
            {"account": {"storage": 85, "limits": {"max_storage": 100}}},
            Level.WARN,
            "account: storage is 85% full: 85 B of 100 B",
        ),
        ({"account": {"storage": 96, "limits": {"max_storage": 100}}}, Level.BAD, "storage is 96% full"),
        (
            {"account": {"tiers": {"R3": {"storage": 96, "limits": {"max_storage": 100}}}}},
            Level.BAD,
            "account R3: storage is 96% full",
        ),
        ({"account": {"streams": 3, "limits": {"max_streams": 3}}}, Level.WARN, "3 streams and may have no more"),
        ({"prefix": "events"}, Level.BAD, "'events' is the prefix of the bus, and the name of the stream"),
        (
            {"no_events": [(7, "events.events.a"), (9, "events.events.b")], "looked_through": 1_000},
            Level.WARN,
            "2 of the latest 1,000 are no events, the last at sequence 9, of 'events.events.b'",
        ),
        (
            {"torn": [TornSave(7, 9, False)], "looked_through": 1_000},
            Level.WARN,
            "1 of which the server has stored a part only, among the latest 1,000 records: sequences 7 to 9",
        ),
        ({"torn": [TornSave(n, n, True) for n in range(9)]}, Level.WARN, "4 to 4, others"),
        ({"monitor": {}, "monitor_url": ""}, Level.WARN, "not seen: only the server's monitoring port"),
        ({"monitor": {"error": {"description": "gone"}}}, Level.WARN, "gone; so health"),
        ({"monitor": {"server_id": "N2", "server_name": "n2"}}, Level.WARN, "not seen: 'n2' has no JetStream"),
        (
            {
                "monitor": {
                    "server_id": "N1",
                    "server_name": "n1",
                    "jetstream": {"config": {"sync_interval": 120 * 10**9}},
                }
            },
            Level.WARN,
            "every 120 s on n1",
        ),
        (
            {
                "monitor": {
                    "server_id": "N1",
                    "jetstream": {"config": {"sync_always": True, "max_storage": 100}, "stats": {"storage": 99}},
                }
            },
            Level.BAD,
            "its share is 99% full",
        ),
        ({"health": {"status": "unavailable", "error": "no space left on device"}}, Level.BAD, "no space left"),
        ({"round_trip": 0.2}, Level.WARN, "200.00 ms"),
        ({"tls": None}, Level.WARN, "not in use: events and passwords can be read"),
        ({"server": WELL.server | {"auth_required": False}}, Level.WARN, "the server asks for none"),
        ({"server": WELL.server | {"connect_urls": ["10.0.0.1:4222"]}}, Level.WARN, "knows of no other server"),
        (
            {"account": {"error": {"description": "no answer within 1 s", "err_code": 0, "is_silent": True}}},
            Level.BAD,
            "it does not answer: no answer within 1 s",
        ),
        ({"untried": "no answer"}, Level.WARN, "not tried: no answer"),
        ({"account": {"consumers": 5, "limits": {"max_consumers": 5}}}, Level.WARN, "5 consumers and may have no more"),
        (
            {"account": {"error": {"description": "not ready (10008)", "err_code": ErrorCode.JSClusterNotAvailErr}}},
            Level.BAD,
            "no leader",
        ),
        ({"skew": 1.5}, Level.WARN, "1.5 s before"),
        ({"skew": -1.5}, Level.WARN, "1.5 s behind"),
        ({"stream": {"error": {"description": "offline", "err_code": 10118}}}, Level.BAD, "is not seen: offline"),
        ({"stream": stream({"deny_delete": False})}, Level.BAD, "events could be deleted"),
        ({"stream": stream({"max_age": 10**9})}, Level.BAD, "max_age"),
        ({"stream": stream({"num_replicas": 2})}, Level.BAD, "3 were asked for"),
        ({"stream": stream({"allow_atomic": False})}, Level.WARN, "allow_atomic is off"),
        ({"stream": stream({"persist_mode": "async"})}, Level.BAD, "before they are written"),
        ({"stream": stream(state={"bytes": 9 * GIB})}, Level.WARN, "max_bytes is 90% full: 9.0 GiB of 10.0 GiB"),
        ({"stream": stream({"max_msgs": 1_000})}, Level.WARN, "1,000 records of max_msgs 1,000"),
        ({"stream": stream({"max_msg_size": 1_000})}, Level.WARN, "max_msg_size"),
        ({"stream": stream(leader="")}, Level.BAD, "no leader"),
        ({"stream": stream(replicas=CLUSTER["replicas"][:1])}, Level.WARN, "2 of 3 are there"),  # type: ignore[index]
        (
            {"stream": stream(replicas=[{"name": "n2", "offline": True}, CLUSTER["replicas"][1]])},  # type: ignore[index]
            Level.WARN,
            "n2 offline",
        ),
        (
            {"stream": stream(replicas=[{"name": "n2", "offline": True}, {"name": "n3", "offline": True}])},
            Level.BAD,
            "n2, n3 offline",
        ),
        (
            {"stream": stream(replicas=[{"name": "n2", "current": False, "lag": 7}, CLUSTER["replicas"][1]])},  # type: ignore[index]
            Level.WARN,
            "n2 is 7 operations behind",
        ),
        (
            {"stream": stream(replicas=[{"name": "n2", "active": 6 * 10**9}, CLUSTER["replicas"][1]])},  # type: ignore[index]
            Level.WARN,
            "n2 is 0 operations behind, silent for 6 s",
        ),
        ({"stream": stream(state={"num_subjects": 1_000_000})}, Level.WARN, "1,000,000: the server keeps an index"),
        ({"consumers": [CONSUMER | {"num_pending": 10_000}]}, Level.WARN, "10,000 events before it"),
        ({"consumers": [CONSUMER | {"num_redelivered": 100}]}, Level.WARN, "consumer projector: 100 events"),
        (
            {"consumers": [CONSUMER | {"num_ack_pending": 9, "config": {"max_ack_pending": 9}}]},
            Level.WARN,
            "nothing else is delivered",
        ),
        ({"dead_letters": {"state": {"messages": 4}}}, Level.WARN, "4 events that consumers gave up"),
        (
            {"dead_letters": {"config": {"name": "events~dead-letters"}}},
            Level.WARN,
            "'events~dead-letters' has 1, the events have 3",
        ),
        ({"snapshots": {"config": {"name": "s", "num_replicas": 2}}}, Level.WARN, "'s' has 2, the events have 3"),
    ],
)
def test_finds(changes: dict[str, Any], level: Level, words: str) -> None:
    (found,) = troubles(**changes)
    assert found.level is level
    assert words in first_line(found)
    assert is_well([found]) == (level is not Level.BAD)


def test_a_server_that_wants_certificates_of_clients_has_a_login() -> None:
    server = WELL.server | {"auth_required": False}
    assert troubles(server=server) != []
    assert troubles(server=server | {"tls_verify": True}) == []


def test_one_replica_is_well_on_a_server_that_is_alone() -> None:
    wanted, alone = WANTED | {"num_replicas": 1}, {"leader": "n1"}
    info = {"config": CONFIG | {"num_replicas": 1}, "state": STATE, "cluster": alone}
    server = {"version": "2.15.1", "auth_required": True}
    assert troubles(wanted=wanted, stream=info, server=server) == []
    (found,) = troubles(wanted=wanted, stream=info)
    assert "1, in a cluster" in found.message


def test_no_stream_yet_is_not_bad() -> None:
    error = {"error": {"description": "stream not found", "err_code": ErrorCode.JSStreamNotFoundErr}}
    assert troubles(stream=error, skew=None, consumers=[]) == []
    (found,) = troubles(stream=error, account=WELL.account | {"limits": {"max_bytes_required": True}})
    assert found.level is Level.BAD


def test_the_table_of_faults() -> None:
    for fault in FAULTS:
        assert fault.source.startswith("https://")
        assert list(fault.fixed) == sorted(fault.fixed)
        assert fault.since < fault.fixed[0]
        for version in fault.fixed:
            assert fault not in faults_of(version, with_store=True)
        before = fault.only or [(major, minor, patch - 1) for major, minor, patch in fault.fixed if patch]
        for version in before:
            assert fault in faults_of(version, with_store=True)
            assert (fault in faults_of(version, with_store=False)) == (not fault.is_of_store)
    newest = max(max(fault.fixed) for fault in FAULTS)
    assert list(faults_of(newest, with_store=True)) == []
    assert ".".join(map(str, newest)) in NEWEST_FIX


@pytest.mark.parametrize(
    ("version", "count"),
    [((2, 10, 26), 2), ((2, 11, 17), 0), ((2, 12, 6), 2), ((2, 12, 7), 0), ((2, 15, 1), 0), ((3, 0, 0), 0)],
)
def test_faults_of_a_bus_alone(version: tuple[int, int, int], count: int) -> None:
    assert len(list(faults_of(version, with_store=False))) == count
    answers = replace(WELL, wanted=None, server=WELL.server | {"version": ".".join(map(str, version))})
    found = [one for one in examine(answers) if one.topic == "server"]
    assert all((one.level is Level.WARN) == (count > 0) for one in found), "an old server is no trouble for a bus"


def test_a_bus_alone_asks_nothing_of_jetstream() -> None:
    answers = replace(WELL, wanted=None, account={"error": {"err_code": ErrorCode.JSNotEnabledErr}})
    assert {one.topic for one in examine(answers)} & {"jetstream", "stream", "sync to disk", "actors"} == set()
