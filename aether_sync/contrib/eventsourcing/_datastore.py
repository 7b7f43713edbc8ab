"""``Datastore``: the stores of a factory, and where the environment says that they are."""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Thread
from typing import TypeVar, cast

from eventsourcing.persistence import InterfaceError
from eventsourcing.utils import Environment

from aether_sync import (
    Connection,
    ConnectionOptions,
    EventStore,
    InMemoryEventStore,
    InvalidOptionError,
    JetStreamEventStore,
    WrongThreadError,
)

__all__ = ["Datastore"]

T = TypeVar("T")

_STORE = "AETHER_SYNC_STORE"
_STREAM = "AETHER_SYNC_STREAM"
_NAMESPACE = "AETHER_SYNC_NAMESPACE"
_REPLICAS = "AETHER_SYNC_REPLICAS"
_TIMEOUT = "AETHER_SYNC_TIMEOUT"

_CONTEXT = "NATS_CONTEXT"
_URL = "NATS_URL"
_OPTIONS = {
    "NATS_USER": "user",
    "NATS_PASSWORD": "password",
    "NATS_TOKEN": "token",
    "NATS_CREDS": "credentials",
    "NATS_NKEY": "nkeys_seed",
    "NATS_CA": "tls_ca",
    "NATS_CERT": "tls_cert",
    "NATS_KEY": "tls_key",
}
_PATHS = ("NATS_CREDS", "NATS_NKEY", "NATS_CA", "NATS_CERT", "NATS_KEY")


class Datastore:
    """The stores of a factory: one for events and trackings, and one for each other purpose, such as snapshots.

    Nothing happens before the first use.

    Args:
        env: Where the settings are looked up: each first with the name of the application before it.

    Attributes:
        timeout: Seconds for each call of a store.

    Raises:
        OSError: A setting is wrong; the error names the variable and the value, unless that is a secret.
    """

    def __init__(self, env: Environment) -> None:
        self._stores: dict[str, EventStore] = {}  # by purpose; changed by single operations only
        self._closed = False
        self._connection: Connection | None = None
        self.timeout = _read(env, _TIMEOUT, 5.0, float, lambda seconds: 0 < seconds < float("inf"), "seconds above 0")
        self._replicas = _read(env, _REPLICAS, 1, int, lambda number: number in range(1, 6), "a number from 1 to 5")
        self._stream = env.get(_STREAM) or "events"
        self._namespace = env.get(_NAMESPACE) or env.name or None
        choices = {"jetstream", "memory"}
        kind = _read(env, _STORE, "jetstream", str.lower, choices.__contains__, "'jetstream' or 'memory'")
        if kind == "jetstream":
            self._connection = _connection(env)
            try:
                self.store("snapshots")  # which has the longest name, and does not connect
            except InvalidOptionError as error:  # of a name that is too long, or a context that no store can use
                raise OSError(f"{_named(env, (_STREAM, _NAMESPACE, _CONTEXT))}{error}") from error

    def store(self, purpose: str = "events") -> EventStore:
        """Return the store for a purpose.

        Raises:
            InterfaceError: The factory is closed.
        """
        if self._closed:
            raise InterfaceError("the factory of this recorder is closed: make a new application")
        found = self._stores.get(purpose)
        if found is None:
            found = self._stores.setdefault(purpose, self._make(purpose))  # two threads may make one: one of them stays
        return found

    def _make(self, purpose: str) -> EventStore:
        if self._connection is None:
            return InMemoryEventStore()
        stream = self._stream if purpose == "events" else f"{self._stream}-{purpose}"
        return JetStreamEventStore(self._connection, stream, namespace=self._namespace, replicas=self._replicas)

    def close(self) -> None:
        """End all subscriptions, and close the stores and the connection. Any thread may call it, repeatedly."""
        self._closed = True
        try:
            self._close()
        except WrongThreadError:  # an application was collected, by chance on the thread of its own connection
            with suppress(RuntimeError):  # no thread can be started: the process ends, and the connection with it
                Thread(target=self._close, name="aether-eventsourcing-close").start()

    def _close(self) -> None:
        for store in list(self._stores.values()):
            store.close()
        if self._connection is not None:
            self._connection.close()

    def __del__(self) -> None:
        """Close it: the runner of a projection forgets the factory of its view, and closes nothing of it."""
        self.close()


def _read(
    env: Environment, name: str, default: T, kind: Callable[[str], T], is_valid: Callable[[T], bool], wanted: str
) -> T:
    """Return a setting; empty counts as not set."""
    text = env.get(name)
    if not text:
        return default
    with suppress(ValueError):
        value = kind(text.strip())
        if is_valid(value):
            return value
    raise OSError(f"{_named(env, [name])}{text!r} is not {wanted}")


def _connection(env: Environment) -> Connection:
    """Make a connection of what the environment of an application says, where that is not the process's own.

    The rest is left to the connection, which reads the environment of the process behind its arguments, and has rules
    for what contradicts what.
    """
    given = {
        name: value
        for name in (_URL, _CONTEXT, *_OPTIONS)
        if (value := env.get(name)) and value != os.environ.get(name)
    }
    for name in given.keys() & set(_PATHS):
        given[name] = os.path.expanduser(os.path.expandvars(given[name]))
    options = cast(ConnectionOptions, {_OPTIONS[name]: given[name] for name in given.keys() & _OPTIONS.keys()})
    try:
        if _CONTEXT in given:
            return Connection.from_context(given[_CONTEXT], given.get(_URL), **options)
        return Connection(given.get(_URL), **options)
    except InvalidOptionError as error:
        raise OSError(f"{_named(env, given)}{error}") from error


def _named(env: Environment, names: Iterable[str]) -> str:
    """Return the variables that are set, as a beginning of what is wrong with them."""
    found = [next((key for key in env.create_keys(name) if env.get(name) and key in env), "") for name in names]
    return f"{', '.join(filter(None, found))}: " if any(found) else ""
