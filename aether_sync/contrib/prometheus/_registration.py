"""``register()``: whose metrics are shown, and where."""

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry

from ..._arguments import check_text, is_of
from ..._runtime.exit import after_exit
from ..._runtime.locks import signal_safe_lock
from ..._values.shown import short
from ...bus import EventBus, lasting_metrics
from ...connection import Connection
from ...errors import InvalidOptionError
from ...nats_bus import NATSEventBus
from ...outbox.relay import Relay
from ...stores._store_base import lasting_store_metrics
from ...stores.consumers.runner import Runner, lasting_runner_metrics
from ...stores.event_store import Consumer
from ...stores.jetstream import JetStreamEventStore
from ...stores.memory import InMemoryEventStore
from ...worker.worker import Worker
from ._collector import Collector
from ._exporter import Answer, Exporter, Source
from ._reading import (
    counts_of_bus,
    counts_of_runner,
    counts_of_store,
    labels_of_runner,
    read_bus,
    read_connection,
    read_consumer,
    read_relay,
    read_runner,
    read_store,
    read_worker,
)
from ._writer import Writer

__all__ = ["Registration", "fault_of", "multiprocess_directory", "register"]

_LONGEST = 100  # characters of a name: it stands in every line of a scrape

_lock = signal_safe_lock()  # guards these two
_collectors: WeakKeyDictionary[CollectorRegistry, Collector] = WeakKeyDictionary()
_writers: dict[Path, Writer] = {}  # by directory: one, usually


class Registration:
    """The objects that a call of :func:`register` has registered. With ``with``, for the time of the block.

    It need not be kept: objects that are closed or collected leave by themselves.
    """

    def __init__(self, exporter: Exporter, sources: list[Source], leave: Callable[[], None]) -> None:
        self._exporter = exporter
        self._sources = sources
        self._leave = leave

    def unregister(self) -> None:
        """Show these objects no longer, unless another registration does. Any thread may call it, more than once.

        What they have counted by now stays in the sums as long as anything else is registered, so that no counter goes
        down. Where several processes share their files, it stays in these: a process that ends without Python's exit
        handlers calls this before, and the last second is not lost.
        """
        sources, self._sources = self._sources, []
        if sources:
            self._exporter.remove(sources)
            self._leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unregister()


def register(
    *objects: EventBus | Connection | InMemoryEventStore | JetStreamEventStore | Runner | Consumer | Worker | Relay,
    name: str = "",
    registry: CollectorRegistry = REGISTRY,
) -> Registration:
    """Show the metrics of buses, stores, runners, consumers, workers and relays to Prometheus.

    In one process a registry asks them at each scrape. Where several processes answer scrapes, which is so if the
    environment has ``PROMETHEUS_MULTIPROC_DIR``, each process writes what it has into that directory once a second, and
    prometheus-client's ``MultiProcessCollector`` adds it up. A forked child goes on by itself with what its parent has
    registered.

    Objects are not kept alive by this. Those that have the same labels are added up, so a program may register a bus
    for each of its parts.

    Args:
        *objects: Of a bus or store, its connection is shown as well. A consumer (``store.consumer(name)``) is asked for
            how far it is, by a thread of its own every five seconds; a :class:`~aether_sync.Runner` knows that without.
            Of a :class:`~aether_sync.Worker` its handlers are shown, the runners of its consumers, and its relays; its
            bus and its store are registered by themselves. All relays of an outbox see the same rows.
        name: The label ``name`` of all series of these objects, to tell two clusters apart; "" for none. The connection
            that several buses and stores share has the name of the first. An object that is unregistered, and then
            registered under another name, begins there with what is not shown under the name before.
        registry: Who shows them. It is not used where several processes answer: their files belong to no registry.

    Returns:
        What takes them out again, if need be.

    Raises:
        InvalidOptionError: An object is none of these, or is registered under another name; the registry is none, or
            has metrics of the same names; or ``PROMETHEUS_MULTIPROC_DIR`` is no directory, or one that this user may
            not write in.
    """
    if not objects:
        raise InvalidOptionError(f"register() takes {_KINDS}, and was given none of them")
    name = check_text("name", name) or ""
    if len(name) > _LONGEST:
        raise InvalidOptionError(f"name must have at most {_LONGEST} characters, not {len(name)}")
    if not is_of(registry, CollectorRegistry):
        raise InvalidOptionError(f"registry must be a CollectorRegistry of prometheus_client, not {short(registry)}")
    sources = [source for one in objects for source in _sources_of(one, name)]
    directory = multiprocess_directory(to="write")
    with _lock:
        if directory is not None:
            return _register_with(_writer_of(directory), sources)
        return _register_in(registry, sources)


def multiprocess_directory(*, to: Literal["read", "write"]) -> Path | None:
    """Return where several processes share their metrics; None if this one answers scrapes by itself.

    Args:
        to: What it is wanted for.

    Raises:
        InvalidOptionError: There is no such directory, or this user may not do that there.
    """
    path = os.environ.get("PROMETHEUS_MULTIPROC_DIR") or os.environ.get("prometheus_multiproc_dir")  # noqa: SIM112
    if not path:
        return None
    try:
        os.scandir(path).close()
        mode = os.R_OK | os.X_OK | (os.W_OK if to == "write" else 0)
        is_allowed = os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)
    except PermissionError:
        is_allowed = False
    except OSError as error:
        raise InvalidOptionError(
            f"PROMETHEUS_MULTIPROC_DIR is {short(path)}, and there is no such directory: make it before the program "
            "starts, or unset the variable if one process answers all scrapes"
        ) from error
    if not is_allowed:
        raise InvalidOptionError(
            f"PROMETHEUS_MULTIPROC_DIR is {short(path)}, and this process, of user {os.geteuid()}, may not {to} there: "
            "give the directory to the user as whom the program works"
        )
    return Path(path).absolute()


def fault_of(directory: Path) -> str | None:
    """Return why the files in a directory are not what this process has to say; None if they are.

    Raises:
        OSError: The directory cannot be read.
    """
    os.scandir(directory).close()  # prometheus-client takes one that it may not read for an empty one
    writer = _writers.get(directory)
    return None if writer is None else writer.fault


def _register_with(writer: Writer, sources: list[Source]) -> Registration:
    added = writer.exporter.add(sources)
    writer.begin()

    def leave() -> None:
        writer.write_all()  # now, as the process may end without its exit handlers
        with _lock:
            if not writer.exporter.is_in_use:
                writer.end()

    return Registration(writer.exporter, added, leave)


def _writer_of(directory: Path) -> Writer:
    writer = _writers.get(directory)
    if writer is None:
        writer = _writers[directory] = Writer(directory)
    return writer


def _register_in(registry: CollectorRegistry, sources: list[Source]) -> Registration:
    collector = _collectors.get(registry)
    if collector is None:
        collector = Collector()
        added = collector.exporter.add(sources)
        try:
            registry.register(collector)
        except ValueError as error:
            raise InvalidOptionError(f"the registry has metrics of the same names: {error}") from error
        _collectors[registry] = collector
    else:
        added = collector.exporter.add(sources)

    def leave() -> None:
        with _lock:
            if _collectors.get(registry) is collector and not collector.exporter.is_in_use:
                del _collectors[registry]
                registry.unregister(collector)
                collector.end()

    return Registration(collector.exporter, added, leave)


# -- what can be registered

_KINDS = "buses, connections, stores, runners, consumers, workers and relays"


def _sources_of(thing: Any, name: str) -> list[Source]:
    """Return what is read of an object."""
    if is_of(thing, Connection):
        return [Source(id(thing), thing, "connection", name, read_connection)]
    if is_of(thing, Runner):
        return [_runner_source(thing, name)]
    if is_of(thing, Consumer):
        return [_consumer_source(thing, name)]
    if is_of(thing, Worker):
        return [Source(id(thing), thing, "worker", name, read_worker)]
    if is_of(thing, Relay):
        return [Source(id(thing), thing, "relay", name, read_relay)]
    if is_of(thing, EventBus):
        own = _bus_source(thing, name)
    elif is_of(thing, InMemoryEventStore) or is_of(thing, JetStreamEventStore):
        own = _store_source(thing, name)
    else:
        raise InvalidOptionError(f"register() takes {_KINDS}, not {short(thing)}")
    if is_of(thing, NATSEventBus) or is_of(thing, JetStreamEventStore):
        (below,) = _sources_of(thing.connection, name)
        own.above = below.key
        return [own, below]
    return [own]


def _bus_source(bus: EventBus, name: str) -> Source:
    metrics, prefix = lasting_metrics(bus), bus.prefix if isinstance(bus, NATSEventBus) else ""
    return Source(id(bus), bus, "bus", name, read_bus, lambda name: counts_of_bus(metrics(), name, prefix))


def _store_source(store: InMemoryEventStore | JetStreamEventStore, name: str) -> Source:
    metrics, stream = lasting_store_metrics(store), store.stream if isinstance(store, JetStreamEventStore) else ""
    return Source(id(store), store, "store", name, read_store, lambda name: counts_of_store(metrics(), name, stream))


def _runner_source(runner: Runner, name: str) -> Source:
    metrics, labels = lasting_runner_metrics(runner), labels_of_runner(runner.metrics())
    return Source(
        id(runner),
        runner,
        "runner",
        name,
        read_runner,
        lambda name: counts_of_runner(metrics(), name, *labels),
        survives_fork=False,
    )


def _consumer_source(consumer: Consumer, name: str) -> Source:
    store = consumer.store
    answer, stream = Answer(consumer.name), store.stream if isinstance(store, JetStreamEventStore) else ""
    return Source(
        (id(store), consumer.name),
        store,
        "consumer",
        name,
        lambda _, name: read_consumer(answer.state, name, stream, answer.consumer),
        answer=answer,
    )


# -- forks and the end


def _begin_anew() -> None:
    for collector in list(_collectors.values()):
        collector.begin_anew()
    for writer in list(_writers.values()):
        writer.begin_anew()


# After the library's own objects: they were told of the fork by a function that was registered when this was imported.
os.register_at_fork(after_in_child=_begin_anew)


@after_exit
def _end_for_good() -> None:
    for writer in list(_writers.values()):
        writer.end_for_good()
