"""The pytest plugin of ``aether_sync``: servers, buses and stores for tests, and what a test expects of them.

pytest imports this module in every run where the package is installed. So it stands outside of the package, which it
imports only when a test asks for one of the fixtures: until then nothing is imported, started or looked at.

``aether-sync guide testing`` explains the fixtures.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from aether_sync import (
        Connection,
        EventBus,
        EventTypes,
        InMemoryEventStore,
        JetStreamEventStore,
        NATSCluster,
        NATSEventBus,
        NATSServer,
    )
    from aether_sync.testing import BrokenLink, LogRecorder, Published
    from aether_sync.testing._means import Reach

__all__ = ["pytest_addoption"]

_SERVER_CONFIG = "aether_server_config"
_NATS_URL = "aether_nats_url"

#: What a test uses if it is about events: then it is guarded, see aether_guard.
_MEANS = frozenset(
    (
        "nats_server",
        "nats_url",
        "own_nats_server",
        "nats_cluster",
        "broken_link",
        "aether_namespace",
        "aether_stream",
        "aether_connection",
        "aether_bus",
        "aether_store",
        "local_bus",
        "memory_store",
        "published",
        "aether_logs",
    )
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options of the configuration file."""
    parser.addini(_SERVER_CONFIG, "text of a nats-server configuration file, for the servers that the fixtures start")
    parser.addini(_NATS_URL, "URL of a server that runs already, which the tests use instead of one of their own")


# -- servers


@pytest.fixture(scope="session")
def aether_server_config(pytestconfig: pytest.Config) -> str:
    """The configuration of the servers; override it to compute one."""
    return str(pytestconfig.getini(_SERVER_CONFIG))


@pytest.fixture(scope="session")
def nats_server(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory, aether_server_config: str
) -> Iterator["NATSServer"]:
    """A nats-server for all tests of this process that do not harm it."""
    from aether_sync import NATSServer

    if url := pytestconfig.getini(_NATS_URL):
        shown = url.rpartition("@")[2]  # without a password
        pytest.fail(
            f"there is no nats_server, as the option {_NATS_URL} names a server that runs already, at {shown}: use "
            "nats_url, or own_nats_server for a server that the test may harm",
            pytrace=False,
        )
    log = tmp_path_factory.mktemp("nats-server") / "nats.log"
    with NATSServer(log_file=log, config=aether_server_config) as server:
        yield server


@pytest.fixture(scope="session")
def nats_url(request: pytest.FixtureRequest) -> str:
    """Where programs under test connect: the URL of ``nats_server``, or that of the option ``aether_nats_url``."""
    url = str(request.config.getini(_NATS_URL))
    if not url:
        server: NATSServer = request.getfixturevalue("nats_server")
        url = server.url
    return url


@pytest.fixture
def own_nats_server(aether_guard: None, aether_server_config: str) -> Iterator["NATSServer"]:
    """A nats-server of the test's own, which it may kill, pause and restart."""
    from aether_sync import NATSServer

    with NATSServer(config=aether_server_config) as server:
        yield server


@pytest.fixture
def nats_cluster(aether_guard: None, aether_server_config: str) -> Iterator["NATSCluster"]:
    """A cluster of three nats-servers of the test's own."""
    from aether_sync import NATSCluster

    with NATSCluster(config=aether_server_config) as cluster:
        yield cluster


@pytest.fixture
def _aether_reached() -> "list[Reach]":
    """How the connection of the test reaches its server, once that is decided."""
    return []


@pytest.fixture
def broken_link(aether_guard: None, nats_url: str, _aether_reached: "list[Reach]") -> Iterator["BrokenLink"]:
    """What ``aether_connection`` goes through in a test that asks for this, which may cut, stall and slow it."""
    from aether_sync.testing import BrokenLink

    if _aether_reached:
        pytest.fail(
            "the connection of this test is made already, and does not go through broken_link: make broken_link an "
            "argument of the test, or get it before aether_connection, aether_bus and aether_store",
            pytrace=False,
        )
    with BrokenLink(nats_url) as link:
        yield link


# -- on a server


@pytest.fixture
def aether_types() -> "EventTypes | None":
    """The classes of the events of all buses and stores here; override it to give yours."""
    return None


@pytest.fixture
def aether_namespace(request: pytest.FixtureRequest) -> str:
    """A name that no other test has: the prefix of ``aether_bus``."""
    from aether_sync.testing._means import make_namespace

    return make_namespace(request.node.name)


@pytest.fixture
def aether_stream(aether_namespace: str) -> str:
    """A name that no other test has, and that is no prefix of a bus: the stream of ``aether_store``."""
    from aether_sync.testing._means import stream_of

    return stream_of(aether_namespace)


@pytest.fixture
def _aether_reach(request: pytest.FixtureRequest, nats_url: str, _aether_reached: "list[Reach]") -> "Reach":
    """How the test reaches its server: through the broken link, if it asks for that."""
    from aether_sync.testing._means import Reach

    link = request.getfixturevalue("broken_link") if "broken_link" in request.fixturenames else None
    reach = Reach(nats_url, link, trust_env=bool(request.config.getini(_NATS_URL)))
    _aether_reached.append(reach)
    return reach


@pytest.fixture
def aether_connection(aether_guard: None, _aether_reach: "Reach") -> Iterator["Connection"]:
    """A connection, which ``aether_bus`` and ``aether_store`` share."""
    from aether_sync.testing._means import opened_connection

    with opened_connection(_aether_reach) as connection:
        yield connection


@pytest.fixture
def aether_bus(
    aether_connection: "Connection", aether_namespace: str, aether_types: "EventTypes | None", _aether_reach: "Reach"
) -> Iterator["NATSEventBus"]:
    """A bus that no other test listens to."""
    from aether_sync.testing._means import opened_bus

    with opened_bus(aether_connection, aether_namespace, aether_types, _aether_reach) as bus:
        yield bus


@pytest.fixture
def aether_store(
    aether_connection: "Connection", aether_stream: str, aether_types: "EventTypes | None", _aether_reach: "Reach"
) -> Iterator["JetStreamEventStore"]:
    """A store that has no events yet; what it stores is deleted after the test."""
    from aether_sync.testing._means import opened_store

    with opened_store(aether_connection, aether_stream, aether_types, _aether_reach) as store:
        yield store


# -- in memory


@pytest.fixture
def local_bus(aether_guard: None, aether_types: "EventTypes | None") -> Iterator["EventBus"]:
    """A bus of this process."""
    from aether_sync import EventBus

    with EventBus(types=aether_types) as bus:
        yield bus


@pytest.fixture
def memory_store(aether_guard: None, aether_types: "EventTypes | None") -> Iterator["InMemoryEventStore"]:
    """A store in memory."""
    from aether_sync import InMemoryEventStore

    with InMemoryEventStore(types=aether_types) as store:
        yield store


# -- what happens


@pytest.fixture
def published(request: pytest.FixtureRequest) -> Iterator["Published"]:
    """What is published: on ``aether_bus``, or on ``local_bus`` in a test that asks for that and not for the other."""
    from aether_sync.testing import Published

    is_local = "local_bus" in request.fixturenames and "aether_bus" not in request.fixturenames
    with Published(request.getfixturevalue("local_bus" if is_local else "aether_bus")) as published:
        yield published


@pytest.fixture
def _aether_records() -> Iterator["LogRecorder"]:
    """What this library logs, at the level that the program has set."""
    from aether_sync.testing import LogRecorder

    with LogRecorder() as records:
        yield records


@pytest.fixture
def aether_logs(_aether_records: "LogRecorder") -> Iterator["LogRecorder"]:
    """What this library logs, at level INFO and above."""
    with _aether_records.at_info():
        yield _aether_records


class _Course:
    """What pytest reports of a test until its end.

    Attributes:
        has_passed: Whether the test itself was called and nothing has ended it, or a part of it, by an exception: it
            neither failed, nor was it skipped, expected to fail or interrupted.
    """

    def __init__(self, item: pytest.Item, when_called: Callable[[], object]) -> None:
        self._item = item
        self._when_called = when_called
        self._has_raised = False
        self.has_passed = False

    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        if item is not self._item:
            return
        if call.excinfo is not None:
            self._has_raised = True
        if call.when == "call":
            self.has_passed = not self._has_raised
            self._when_called()


@pytest.fixture
def aether_guard(request: pytest.FixtureRequest, _aether_records: "LogRecorder") -> Iterator[None]:
    """Fails a test in which a handler fails, or that leaves something behind; override it to have neither."""
    from aether_sync.testing._guard import Guard

    guard = Guard(_aether_records)
    course = _Course(request.node, guard.note_running)
    plugins = request.config.pluginmanager
    plugins.register(course)
    yield
    plugins.unregister(course)
    if course.has_passed and (said := guard.complaint()):
        pytest.fail(said, pytrace=False)


@pytest.fixture(autouse=True)
def _aether_guarded(request: pytest.FixtureRequest) -> None:
    """Guards each test that uses a fixture of this module, also one of the session, which cannot ask for that itself.

    It is the first of the fixtures of one test to be set up, so what all others make is looked at.
    """
    if not _MEANS.isdisjoint(request.fixturenames):
        request.getfixturevalue("aether_guard")
