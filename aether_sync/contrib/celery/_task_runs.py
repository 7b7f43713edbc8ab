"""``TaskRun``: one run of a task by Celery. What it publishes waits for its success, and its events get their ids here.

Celery tells by signals when a run begins, has succeeded, and ends. These are sent on the thread that runs the task, in
every pool and for eager tasks, but not when a task is called as a plain function. Such a call within a run belongs to
that run.
"""

import json
from collections import Counter
from contextvars import ContextVar
from typing import Any, Protocol
from uuid import UUID, uuid5

from celery import current_task
from celery.signals import task_postrun, task_prerun, task_success
from celery.states import SUCCESS

from ...errors import AetherError

__all__ = ["TaskRun", "Waiting", "current_run"]

_IDS = UUID("c0f9ccd0-df92-5f13-a271-651f1980888e")  # the namespace of the ids, which must never change


class Waiting(Protocol):
    """What waits for the success of a task."""

    def publish(self) -> None:
        """The task has succeeded."""

    def lose(self) -> None:
        """The task has returned, and Celery did not say that it has succeeded."""


class TaskRun:
    """One run of a task.

    Args:
        task: The task.
        task_id: Its id, which is the same when it is tried or delivered again.
        outer: The run that this one is within, if it is eager.

    Attributes:
        outer: That run.
        on_success: What waits, in order, for its success.
    """

    def __init__(self, task: Any, task_id: str, outer: "TaskRun | None") -> None:
        request = task.request
        self.outer = outer
        self.on_success: list[Waiting] = []
        self.task_id = task_id
        self._root_id = request.root_id or task_id
        # A task that is replaced hands its id on to the next one, which may be the same task.
        self._origin = [task.name, task_id, getattr(request, "replaced_task_nesting", 0) or 0]
        self._made: Counter[tuple[str, str]] = Counter()  # events, by type and actor

    def is_of(self, task: Any) -> bool:
        """Whether this is what the task runs just now."""
        return bool(task.request.id == self.task_id and task.name == self._origin[0])

    @property
    def metadata(self) -> dict[str, str]:
        """What the events that it makes say of it: the workflow that it belongs to, and itself as the cause."""
        return {"correlationId": self._root_id, "causationId": self.task_id}

    def id_of(self, *key: str | int) -> str:
        """Return the id that stands for a key in every run of this task."""
        return uuid5(_IDS, json.dumps([*self._origin, *key])).hex

    def next_id(self, event_type: str, actor_id: str, key: str | None) -> str:
        """Return the id of an event: of its key, or of how many such events of this actor the run has made before."""
        if key is not None:
            return self.id_of("event", event_type, actor_id, key)
        number = self._made[event_type, actor_id]
        self._made[event_type, actor_id] += 1
        return self.id_of("event", event_type, actor_id, number)


_current: ContextVar[TaskRun | None] = ContextVar("aether_sync_task_run", default=None)


def current_run(wanted: str) -> TaskRun | None:
    """Return the run that this thread is in; None in a task that is called as a plain function, which nobody repeats.

    Args:
        wanted: What it is wanted for, for the error.

    Raises:
        AetherError: No task runs on this thread.
    """
    run = _current.get()
    if not current_task:
        if run is None:
            raise AetherError(
                f"{wanted} belongs to a task, and none runs on this thread: call it in the task's own thread, or start "
                "the other one with contextvars.copy_context().run"
            )
    elif not current_task.request.called_directly and (run is None or not run.is_of(current_task)):
        run = _begin(current_task.request.id, current_task)  # an interrupt kept that from being done
    return run


def _begin(task_id: str, task: Any, **_: object) -> TaskRun:
    outer = _current.get() if task.request.is_eager else None  # under a task of a worker there is nothing
    run = TaskRun(task, task_id, outer)
    _current.set(run)
    return run


def _succeed(sender: Any, **_: object) -> None:
    run = _current.get()
    if run is not None and run.is_of(sender):
        while run.on_success:
            run.on_success.pop(0).publish()


def _end(task_id: str, state: str | None = None, **_: object) -> None:
    run = _current.get()
    while run is not None and run.task_id != task_id:  # an interrupt kept the end of that one from being told
        run = run.outer
    if run is not None:  # else an interrupt kept its begin from being told
        _current.set(run.outer)
        if state == SUCCESS:  # which a task has whose result could not be stored, or whose on_success() has raised
            for one in run.on_success:
                one.lose()


task_prerun.connect(_begin, weak=False)
task_success.connect(_succeed, weak=False)
task_postrun.connect(_end, weak=False)
