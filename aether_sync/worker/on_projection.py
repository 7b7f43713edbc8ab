"""``ProjectionPart``: a projection that a worker starts and closes."""

from collections.abc import Callable

from .._runtime.deadline import Deadline
from .._runtime.handler_threads import ThreadHooks
from ..errors import AetherError
from ..health import Health
from ..stores.projections.projection import Projection, close_projections, let_projection_end

__all__ = ["ProjectionPart"]


class ProjectionPart:
    """Lets a projection run from the begin of the worker to its end.

    A projection that stops at an event does not end the worker: to start the process again would not help, and the
    other handlers go on. Its health says it.
    """

    goes_on = True
    has_ended = False
    failure: AetherError | None = None

    def __init__(self, projection: Projection) -> None:
        self.label = f"projection {projection.name!r}"
        self.key = "project", projection.name
        self._projection = projection

    def begin(self, hooks: ThreadHooks, changed: Callable[[], object], deadline: Deadline) -> None:
        """Start it."""
        self._projection.start(deadline.timeout_left())

    def let_end(self, *, discard: bool) -> None:
        """Apply no more events; do not wait for the batch that is being applied."""
        let_projection_end(self._projection)

    def end(self, deadline: Deadline, *, discard: bool) -> int:
        """Wait for that batch, and return whether it is left behind."""
        return close_projections([self._projection], deadline)

    def forget(self) -> None:
        """In a forked child it is not started."""

    def health(self, deadline: Deadline) -> Health:
        """Return whether it can do its work now."""
        return self._projection.health(timeout=deadline.timeout_left())

    def metrics(self) -> None:
        """Return nothing: it is no handler."""
