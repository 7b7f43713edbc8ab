"""``AetherTestCase``: the fixtures of the pytest plugin as attributes, for ``unittest``."""

import unittest
from collections.abc import Callable
from functools import cached_property, partial
from typing import ClassVar

from .._runtime.exit import after_exit
from .._runtime.locks import signal_safe_lock
from ..bus import EventBus
from ..connection import Connection
from ..errors import InvalidOptionError
from ..event_types import EventTypes
from ..nats_bus import NATSEventBus
from ..server.cluster import NATSCluster
from ..server.server import NATSServer
from ..stores.jetstream import JetStreamEventStore
from ..stores.memory import InMemoryEventStore
from ._guard import Guard
from ._link import BrokenLink
from ._logs import LogRecorder
from ._means import Reach, make_namespace, opened_bus, opened_connection, opened_store, stream_of
from ._published import Published

__all__ = ["AetherTestCase"]


class AetherTestCase(unittest.TestCase):
    """A test case with what a test of this library's users needs, made when it is first used and closed afterwards.

    The attributes have the names of the fixtures of the pytest plugin. One server is shared by all tests of a process
    that do not harm it; everything else is made for one test. A test in which a handler fails, or that leaves
    something behind that was not there in :meth:`setUp`, fails: a ``setUp()`` of yours calls ``super().setUp()`` first.

    Attributes:
        aether_server_config: The configuration of the servers, for a class to set: the text of a nats-server
            configuration file.
        aether_nats_url: The URL of a server that is there already, for a class to set. None to have one started.
        aether_types: The classes of the events of all buses and stores, for a class to set.
    """

    aether_server_config: ClassVar[str] = ""
    aether_nats_url: ClassVar[str | None] = None
    aether_types: ClassVar[EventTypes | None] = None

    def setUp(self) -> None:
        """Look at what is there before the test."""
        for name in _OF_ONE_TEST:  # of an earlier run of this very test
            self.__dict__.pop(name, None)
        self._has_raised = False
        self._guard = Guard(self._records)
        self.addCleanup(self._look_back)

    def _look_back(self) -> None:
        if not self._has_raised and (said := self._guard.complaint()):
            raise AssertionError(said)

    # unittest says nowhere else that a part of a test has failed:

    def _callSetUp(self) -> None:
        self._watched(super()._callSetUp)  # type: ignore[misc]

    def _callTestMethod(self, method: Callable[[], object]) -> None:
        self._watched(super()._callTestMethod, method)  # type: ignore[misc]
        if "_guard" in self.__dict__:
            self._guard.note_running()

    def _callTearDown(self) -> None:
        self._watched(super()._callTearDown)  # type: ignore[misc]

    def _watched(self, part: Callable[..., object], *arguments: object) -> None:
        """Call a part of the test, and note whether it fails; also in a subtest, whose failure raises nothing here."""
        try:
            part(*arguments)
        except BaseException:
            self._has_raised = True
            raise
        outcome = getattr(self, "_outcome", None)
        if outcome is not None and not outcome.success:
            self._has_raised = True

    # -- servers

    @property
    def nats_server(self) -> NATSServer:
        """A server for all tests of this process that do not harm it.

        Raises:
            InvalidOptionError: The class has an ``aether_nats_url``.
        """
        if self.aether_nats_url is not None:
            raise InvalidOptionError(
                f"{type(self).__name__} uses the server of its aether_nats_url, and starts none: use nats_url, or "
                "own_nats_server"
            )
        return _server(self.aether_server_config)

    @property
    def nats_url(self) -> str:
        """Where programs under test connect."""
        return self.nats_server.url if self.aether_nats_url is None else self.aether_nats_url

    @cached_property
    def own_nats_server(self) -> NATSServer:
        """A server of the test's own, which it may kill, pause and restart."""
        return self.enterContext(NATSServer(config=self.aether_server_config))

    @cached_property
    def nats_cluster(self) -> NATSCluster:
        """A cluster of three servers of the test's own."""
        return self.enterContext(NATSCluster(config=self.aether_server_config))

    @cached_property
    def broken_link(self) -> BrokenLink:
        """What :attr:`aether_connection` goes through, if it is used before that; a test can cut, stall and slow it."""
        if "aether_connection" in self.__dict__:
            raise InvalidOptionError("the connection of this test is made already: use broken_link before it")
        return self.enterContext(BrokenLink(self.nats_url))

    @property
    def _reach(self) -> Reach:
        return Reach(self.nats_url, self.__dict__.get("broken_link"), trust_env=self.aether_nats_url is not None)

    # -- on a server

    @cached_property
    def aether_namespace(self) -> str:
        """A name that no other test has: the prefix of :attr:`aether_bus`."""
        return make_namespace(self._testMethodName)

    @cached_property
    def aether_stream(self) -> str:
        """A name that no other test has, and that is no prefix of a bus: the stream of :attr:`aether_store`."""
        return stream_of(self.aether_namespace)

    @cached_property
    def aether_connection(self) -> Connection:
        """A connection, which :attr:`aether_bus` and :attr:`aether_store` share."""
        return self.enterContext(opened_connection(self._reach))

    @cached_property
    def aether_bus(self) -> NATSEventBus:
        """A bus that no other test listens to."""
        return self.enterContext(
            opened_bus(self.aether_connection, self.aether_namespace, self.aether_types, self._reach)
        )

    @cached_property
    def aether_store(self) -> JetStreamEventStore:
        """A store that has no events yet; what it stores is deleted after the test."""
        return self.enterContext(
            opened_store(self.aether_connection, self.aether_stream, self.aether_types, self._reach)
        )

    # -- in memory

    @cached_property
    def local_bus(self) -> EventBus:
        """A bus of this process."""
        return self.enterContext(EventBus(types=self.aether_types))

    @cached_property
    def memory_store(self) -> InMemoryEventStore:
        """A store in memory."""
        return self.enterContext(InMemoryEventStore(types=self.aether_types))

    # -- what happens

    @cached_property
    def _records(self) -> LogRecorder:
        return self.enterContext(LogRecorder())

    @cached_property
    def aether_logs(self) -> LogRecorder:
        """What this library logs from the first use on, at level INFO and above."""
        self.enterContext(self._records.at_info())
        return self._records

    @cached_property
    def published(self) -> Published:
        """What is published from the first use on: on :attr:`local_bus` if only that is in use, else on the other."""
        is_local = "local_bus" in self.__dict__ and "aether_bus" not in self.__dict__
        return self.enterContext(Published(self.local_bus if is_local else self.aether_bus))


_OF_ONE_TEST = [name for name, one in vars(AetherTestCase).items() if isinstance(one, cached_property)]
_servers: dict[str, NATSServer] = {}  # that run, by their configuration
_servers_lock = signal_safe_lock()  # guards _servers, and is held while one starts: others need that very one


def _server(config: str) -> NATSServer:
    """Return the server of this process with a configuration. It runs until the process ends."""
    with _servers_lock:
        if config not in _servers:
            server = NATSServer(config=config)
            server.start()
            after_exit(partial(server.stop, discard=True))  # when what is still open has been flushed
            _servers[config] = server
        return _servers[config]
