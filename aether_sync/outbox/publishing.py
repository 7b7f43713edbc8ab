"""``Publishing``: rows for the bus, each published until the server has confirmed it, and thus sometimes twice.

A row is done when a flush has said that the server has processed what was published, and nothing was uncertain and
nothing in its namespace refused. What is uncertain is published again, with the same event ids: by these a subscriber
knows it. Others may use the bus meanwhile, and what the server refuses of theirs is no matter of a relay.
"""

from collections.abc import Sequence

from ..bus import EventBus, was_refused
from ..errors import DeliveryUncertainError, DisconnectedError, PermissionDeniedError
from ..metrics import Metrics
from .outcome import LASTING, Outcome
from .rows import OutboxRow

__all__ = ["Publishing"]

_TIMEOUT = 5.0  # seconds for a flush


class Publishing:
    """Publishes rows of one relay. One thread uses it.

    Args:
        bus: The bus, which others may use as well.
    """

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus

    def send(self, rows: Sequence[OutboxRow], outcome: Outcome) -> None:
        """Publish rows, and wait until they are confirmed.

        Raises:
            Exception: What passes. ``outcome`` has what was done before.
        """
        if not self._bus.is_connected:
            self._bus.start()  # the first use; later it does nothing
            if not self._bus.is_connected:  # it would keep them, and publish each attempt
                raise DisconnectedError("the bus has no connection now")
        before = self._bus.metrics()
        published = [row for row in rows if self._publish(row, outcome)]
        self._confirm(before)
        refused = {name for name in {row.name for row in published} if self._was_refused(name, before)}
        outcome.published += [row for row in published if row.name not in refused]
        for row in published:
            if row.name in refused:
                self._publish_alone(row, outcome)

    def _publish_alone(self, row: OutboxRow, outcome: Outcome) -> None:
        """Publish a row again: what was refused may have been an event of another thread in the same namespace."""
        before = self._bus.metrics()
        if not self._publish(row, outcome):
            return
        self._confirm(before)
        if self._was_refused(row.name, before):
            outcome.refused.append((row, PermissionDeniedError(f"no permission to publish to {row.name!r}")))
        else:
            outcome.published.append(row)

    def _publish(self, row: OutboxRow, outcome: Outcome) -> bool:
        """Publish a row; return whether it was, and not set aside."""
        try:
            for event in row.decoded():
                self._bus.publish(row.name, event)
        except LASTING as error:
            outcome.refused.append((row, error))
            return False
        return True

    def _confirm(self, before: Metrics) -> None:
        """Wait until the server has processed what was published.

        Another thread's ``flush()`` may be told what has become of it, so the counts are compared as well.

        Raises:
            DeliveryUncertainError: It may not have processed all.
        """
        try:
            self._bus.flush(_TIMEOUT)
        except DeliveryUncertainError as error:
            if error.uncertain or not error.rejected:
                raise
        lost = self._bus.metrics().uncertain - before.uncertain
        if lost:
            raise DeliveryUncertainError("the server has not confirmed all that was published", uncertain=lost)

    def _was_refused(self, namespace: str, before: Metrics) -> bool:
        """Whether the server has refused an event of a namespace, of whatever thread.

        Raises:
            DeliveryUncertainError: It has refused so much that this is not known.
        """
        refused = was_refused(self._bus, namespace, before.rejected)
        if refused is None:
            raise DeliveryUncertainError("the server refuses much that others publish: it is not known what of")
        return refused
