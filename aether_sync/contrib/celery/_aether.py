"""``Aether``: the bus and the store of a Celery application, in whatever process its tasks run."""

import atexit
import signal
import time
import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import uuid4

from celery import Celery, bootsteps
from celery.apps.worker import Worker as Program
from celery.signals import (
    worker_init,
    worker_process_init,
    worker_process_shutdown,
    worker_shutdown,
)
from celery.worker import state

from ..._arguments import check_text, check_timeout, is_of
from ..._codec.encoding import encode_and_copy
from ..._runtime.deadline import Deadline
from ..._runtime.exit import end_iterations
from ..._runtime.locks import signal_safe_lock
from ..._runtime.registry import WeakRegistry
from ..._runtime.reporter import Kind, Reporter, last_words
from ..._values.shown import explained, short
from ...bus import EventBus
from ...errors import (
    BusClosedError,
    DuplicateIdError,
    InvalidEventError,
    InvalidOptionError,
    RetryableError,
    StoreClosedError,
    UnknownOutcomeError,
    VersionConflictError,
)
from ...event_types import EventTypes
from ...events import Event
from ...metrics import CloseReport
from ...patterns import check_namespace
from ...stores.base import ANY_VERSION, AnyVersion, StoredEvent
from ...stores.event_store import EventStore
from ...stores.retrying import ConflictPauses
from ._settings import check_settings, make_bus_and_store, settings_of
from ._task_runs import current_run

__all__ = ["RETRYABLE", "Aether"]

RETRYABLE = (RetryableError, VersionConflictError, UnknownOutcomeError, BusClosedError, StoreClosedError)
"""What a task should be tried again for: ``@app.task(autoretry_for=RETRYABLE)``.

These are the errors that may pass by themselves; a conflict with another writer, since the task loads and decides again
when it is tried again; an unknown outcome, which :meth:`Aether.append` finds out; and that bus or store were closed,
since that worker is about to end.
"""

_OF_STORE = 0.5  # of the time to close: the rest is for the connection to send what is left


class _Open(NamedTuple):
    """What is open in this process."""

    bus: EventBus
    store: EventStore
    close_timeout: float


class _OnSuccess(NamedTuple):
    """An event that waits for the success of a task."""

    aether: "Aether"
    namespace: str
    event: Event

    def publish(self) -> None:
        self.aether._publish(self.namespace, self.event)

    def lose(self) -> None:
        reason = "its result could not be stored, or its on_success() has raised an error"
        self.aether._report_lost(self.namespace, self.event, reason)


class Aether:
    """The bus and the store of a Celery application: one of each in every process that uses them.

    They are made at their first use, from the settings of the application, and share a connection. A server that is
    away delays nothing but what needs its answer. They are closed by themselves: when a process of the prefork pool
    ends, when the worker has shut down, and when a program ends that sends tasks. What was published is sent before,
    within ``aether_close_timeout`` (5 s).

    The settings are ``aether_url`` and the other arguments of :class:`NATSEventBus`, :class:`JetStreamEventStore` and
    :class:`Connection`, each behind ``aether_``: ``aether_stream``, ``aether_prefix``, ``aether_replicas`` and so on.
    ``aether_connect`` is ``"background"`` by default. With ``aether_namespace`` the store announces on the bus what it
    stores. The ``aether_url`` of ``"memory://"`` is for tests: a bus and a store of one process, without a server.
    The settings are checked when the application is configured.

    Args:
        app: The application.
        types: The classes of the events, for both.

    Raises:
        ImproperlyConfigured: The application is configured already, and a setting is unknown or wrong. Otherwise this
            is raised where the configuration is read for the first time.
        InvalidOptionError: ``app`` is no application, or ``types`` is no ``EventTypes``.
    """

    def __init__(self, app: Celery, *, types: EventTypes | None = None) -> None:
        if not is_of(app, Celery):
            raise InvalidOptionError(f"Aether() takes a Celery application, Aether(app), not {short(app)}")
        if types is not None and not is_of(types, EventTypes):
            raise InvalidOptionError(f"types must be EventTypes(), or None, not {short(types)}")
        self._app = app
        self._types = types
        self._lock = signal_safe_lock()  # guards _open
        self._open: _Open | None = None
        self._reporter = Reporter()
        weakref.finalize(self, self._reporter.end).atexit = False
        _all.add(self)
        app.add_defaults(self._check)
        app.steps["worker"].add(_EndOfIterations)

    def _check(self) -> Mapping[str, Any]:
        check_settings(self._app, self._types)
        return {}  # the defaults are those of the arguments

    # -- what it has

    @property
    def bus(self) -> EventBus:
        """The bus of this process: a :class:`NATSEventBus`, unless ``aether_url`` is ``"memory://"``.

        Raises:
            ImproperlyConfigured: A setting is unknown or wrong.
        """
        return self._opened().bus

    @property
    def store(self) -> EventStore:
        """The store of this process: a :class:`JetStreamEventStore`, unless ``aether_url`` is ``"memory://"``.

        Raises:
            ImproperlyConfigured: A setting is unknown or wrong.
        """
        return self._opened().store

    def _opened(self) -> _Open:
        there = self._open
        if there is None:  # made outside of the lock, as the settings may be objects of the user's
            made = _Open(*make_bus_and_store(self._app, settings_of(self._app), self._types))
            with self._lock:
                there = self._open = self._open or made
        return there

    # -- events of a task

    def event_id(self, key: str) -> str:
        """Return an id that is the same whenever this task runs again: after a retry, or delivered once more.

        It is made of the task's id and the key. In a task that is called as a plain function it is a new one each time,
        as nobody repeats that.

        Args:
            key: What tells it from other ids of the task, such as ``"placed"``.

        Raises:
            AetherError: No task runs on this thread.
            InvalidOptionError: The key is no text.
        """
        key, run = _checked_key(key) or "", current_run("an id of an event")
        return uuid4().hex if run is None else run.id_of("id", key)

    def event(
        self,
        event_type: str,
        actor_id: str,
        data: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        metadata: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> Event:
        """Return an event of this task, whose id is the same whenever the task runs again.

        Without a ``key``, the id stands for "the first ``OrderPlaced`` of ``order-1`` that this task makes", the second
        one, and so on. So a task that makes several events of one type for one actor, and perhaps in another order when
        it is tried again, gives each of them a ``key``.

        The metadata name the task as the cause (``causationId``), and the workflow that it belongs to
        (``correlationId``, the id of its root). The data may differ when it is tried again: what was stored first
        stays.

        Args:
            event_type: What happened.
            actor_id: What it happened to.
            data: The details.
            key: What tells it from other events of this type and actor, in place of its number.
            metadata: Further texts; they replace those above.
            **fields: Other fields of :class:`Event`, but ``id``.

        Raises:
            AetherError: No task runs on this thread.
            InvalidEventError: As for :class:`Event`.
            InvalidOptionError: The key is no text.
        """
        made = Event(event_type=event_type, actor_id=actor_id, data=data, metadata=metadata or {}, **fields)
        return _of_this_run(made, key)

    def append(
        self, actor_id: str, *events: object, expected_version: int | AnyVersion, timeout: float | None = 5.0
    ) -> list[StoredEvent]:
        """Store an actor's next events once, however often the task runs: as ``store.append()``, which looks before.

        If an earlier run of the task has stored these events, by their ids, they are returned as it has stored them,
        with ``duplicate``, and nothing is stored, whatever the expected version. To find that out, the actor's events
        are read; the store keeps those that it has read, so that this takes one question to the server as a rule. Two
        runs at the same time, as after a broker has delivered a task twice, store the events once, too.

        Args:
            actor_id: The actor.
            *events: Events that :meth:`event` has made, or others whose ids are the same in each run; or objects of
                registered classes, of which it makes such events. All are stored, or none.
            expected_version: As for ``store.append()``.
            timeout: Seconds for all of it.

        Raises:
            DuplicateIdError: Some of the events are stored, and others not: an earlier run has appended others together
                with them.
            AetherError: No task runs on this thread, and an object of a registered class is to be stored.
            InvalidEventError: As for ``store.append()``.
            VersionConflictError: The actor is at another version, and has none of these events.
            UnknownOutcomeError: They may be stored, or not. To try the task again is safe.
        """
        deadline, store = Deadline(timeout), self.store
        made = [self._as_event(actor_id, one) for one in events]
        return self._append(store, actor_id, made, expected_version, deadline) if made else []

    def _append(
        self,
        store: EventStore,
        actor_id: str,
        made: list[Event],
        expected_version: int | AnyVersion,
        deadline: Deadline,
    ) -> list[StoredEvent]:
        ids = {event.id for event in made}
        pauses, seen = ConflictPauses(deadline), 0
        refusal: VersionConflictError | DuplicateIdError | None = None
        while True:
            later = store.get_events(actor_id, seen + 1, timeout=deadline.timeout_left())
            if found := [event for event in later if event.id in ids]:
                return _stored_again(store, made, found, deadline)
            if refusal is not None and (expected_version is not ANY_VERSION or is_of(refusal, DuplicateIdError)):
                raise refusal
            seen = later[-1].version if later else seen
            at = seen if expected_version is ANY_VERSION else expected_version
            try:
                return store.append(actor_id, *made, expected_version=at, timeout=deadline.timeout_left())
            except (VersionConflictError, DuplicateIdError) as error:  # another run has just stored them, perhaps
                if not pauses.take():
                    raise
                refusal = error

    def _as_event(self, actor_id: str, value: object) -> Event:
        if is_of(value, Event):
            return value
        if self._types is None:
            raise InvalidEventError(
                f"append() takes events, not {short(value)}: make them by aether.event(), or use Aether(app, types=...)"
            )
        return _of_this_run(self._types.to_event(value, actor_id=actor_id), None)

    def publish_on_success(self, namespace: str, event: Event) -> None:
        """Publish an event on the bus when this task has succeeded, and not if it fails, is retried, or is rejected.

        The event is taken as it is now. It goes out, in the order of the calls, on the thread of the task: when its
        result is stored, and before the broker gets its acknowledgement. What cannot be published then is logged, and
        lost. Like all that is published it comes at most once; but a task that is delivered once more after its
        success publishes once more. With an event of :meth:`event`, subscribers recognise that by its id.

        A task that is called as a plain function, and not by Celery, publishes at once.

        Args:
            namespace: What it is published under.
            event: The event.

        Raises:
            AetherError: No task runs on this thread.
            InvalidNamespaceError: The namespace is not valid.
            InvalidEventError: It is no event.
            EncodingError: The event holds something that cannot be written as JSON.
        """
        namespace, run = check_namespace(namespace), current_run("publish_on_success()")
        if not is_of(event, Event):
            raise InvalidEventError(f"publish_on_success() takes an Event, not {short(event)}")
        _, copy = encode_and_copy(event, "")
        if run is None:
            self.bus.publish(namespace, copy)
        else:
            run.on_success.append(_OnSuccess(self, namespace, copy))

    def _publish(self, namespace: str, event: Event) -> None:
        try:
            self.bus.publish(namespace, event)
        except Exception as error:  # the task has succeeded, and must not fail any more
            self._report_lost(namespace, event, explained(error))

    def _report_lost(self, namespace: str, event: Event, reason: str) -> None:
        self._reporter.error(
            Kind.NOT_PUBLISHED,
            "event %s of a task that has succeeded is not published: %s",
            short(event.event_type),
            reason,
            namespace=namespace,
            event_id=event.id,
            event_type=event.event_type,
            actor=event.actor_id,
        )

    # -- its end

    def close(self, timeout: float | None = None) -> CloseReport:
        """Send what was published, and close the bus and the store of this process; the next use makes new ones.

        This happens by itself at the end of each process; see the class. Call it where a program goes on without them.

        Args:
            timeout: Seconds for all of it; None for ``aether_close_timeout``.

        Returns:
            What was left undone. It is true if nothing was.
        """
        timeout = check_timeout("timeout", timeout)
        with self._lock:
            there, self._open = self._open, None
        if there is None:
            return CloseReport()
        deadline = Deadline(there.close_timeout if timeout is None else timeout)
        try:
            of_store = there.store.close(deadline.remaining() * _OF_STORE)
        finally:
            report = there.bus.close(deadline.timeout_left())
        self._reporter.close(last_words(deadline))
        return CloseReport(
            unsent=report.unsent,
            uncertain=report.uncertain,
            rejected=report.rejected,
            handlers_left=report.handlers_left + of_store.handlers_left,
            timed_out=report.timed_out or of_store.timed_out,
        )

    def __repr__(self) -> str:
        return f"<Aether of Celery {self._app.main or 'application'}, {'open' if self._open else 'not open'}>"


def _checked_key(key: object) -> str | None:
    if key == "":
        raise InvalidOptionError("key must be a text that tells events of a task apart, such as 'placed', not ''")
    return check_text("key", key)


def _of_this_run(event: Event, key: str | None) -> Event:
    """Return an event with the id that it has in each run of this task."""
    key, run = _checked_key(key), current_run(f"an event {short(event.event_type)}")
    if run is None:
        return event
    event_id = run.next_id(event.event_type, event.actor_id, key)
    return event.replace(id=event_id, metadata={**run.metadata, **event.metadata})


def _stored_again(store: EventStore, made: list[Event], found: list[Event], deadline: Deadline) -> list[StoredEvent]:
    """Return events as an earlier run has stored them.

    Raises:
        DuplicateIdError: It has stored only some of them.
    """
    missing = {event.id for event in made} - {event.id for event in found}
    if missing:
        left = next(event for event in made if event.id in missing)
        raise DuplicateIdError(
            f"an earlier run of this task has stored event {short(found[0].event_type)} of actor "
            f"{short(found[0].actor_id)} without {short(left.event_type)}, which is to be stored together with it: let "
            "each run append the same events, and give them keys where their order may differ"
        )
    return store.save_events(found, timeout=deadline.timeout_left())


# -- the end of processes

_all: WeakRegistry[Aether] = WeakRegistry()


def _close_all() -> None:
    for aether in _all:
        aether.close()


def _close_process(exitcode: object = None, **_: object) -> None:
    """Close all where a process of the prefork pool ends, by ``os._exit()``: no exit handlers run.

    The next thing that it does is to write into a queue of the pool. A hard time limit sends SIGTERM, and SIGKILL a
    tenth of a second later: who is killed while it writes leaves the queue locked, and the worker stands still for
    ever. So a process that has got SIGTERM waits here, where it may be killed.
    """
    _close_all()
    if exitcode == _BY_SIGTERM:
        time.sleep(_UNTIL_KILLED)


def _close_worker(sender: Any, **_: object) -> None:
    """Close what a worker has used that has stopped its pool; in a test the program goes on."""
    for aether in _all:
        if aether._app is getattr(sender, "app", None):
            aether.close()


_BY_SIGTERM = signal.SIGTERM - 256  # the status with which billiard ends such a process
_UNTIL_KILLED = 0.5  # seconds

_CLOSING = ((worker_process_shutdown, _close_process), (worker_shutdown, _close_worker))


def _close_last(**_: object) -> None:
    """Put the closing behind handlers of the program's own, which are there by now, and may publish at the end."""
    for event, receiver in _CLOSING:
        event.disconnect(receiver)
        event.connect(receiver, weak=False)


class _EndOfIterations(bootsteps.StartStopStep):
    """In a cold shutdown, ends what waits for events, before the pool is stopped: threads cannot be killed.

    No signal is sent for that in all versions of Celery, as its pools of threads refuse to kill a task.
    """

    requires = ("celery.worker.components:Pool",)

    def start(self, parent: Any) -> None:
        """Begin nothing."""

    def stop(self, parent: Any) -> None:
        # A worker within a program, as in tests, is no reason to end what else that program does.
        if isinstance(parent, Program) and state.should_terminate is not None:
            end_iterations()

    terminate = stop


_close_last()
worker_init.connect(_close_last, weak=False)
worker_process_init.connect(_close_last, weak=False)
atexit.register(_close_all)  # a program that sends tasks, and what the signals do not reach
