"""``Publishing``: rows for the bus, each published until the server has confirmed it, and thus sometimes twice.

A row is done when a flush has said that the server has processed what was published, and nothing was uncertain or
refused meanwhile. What is uncertain is published again, with the same event ids: by these a subscriber knows it.
"""

from collections.abc import Sequence

from ..bus import EventBus
from ..errors import DeliveryUncertainError, DisconnectedError, PermissionDeniedError
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
        before = self._lost()
        published = [row for row in rows if self._publish(row, outcome)]
        try:
            self._confirm(before)
        except DeliveryUncertainError as error:
            if error.uncertain or not error.rejected:
                raise
        else:
            outcome.published += published
            return
        for row in published:  # the server has refused some, and the others are published once more
            self._publish_alone(row, outcome)

    def _publish_alone(self, row: OutboxRow, outcome: Outcome) -> None:
        before = self._lost()
        if not self._publish(row, outcome):
            return
        try:
            self._confirm(before)
        except DeliveryUncertainError as error:
            reason = next((one for one in error.reasons if row.name.lower() in one.lower()), "")
            if error.uncertain or not reason:  # it may be about what another thread has published
                raise
            outcome.refused.append((row, PermissionDeniedError(reason)))
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

    def _lost(self) -> tuple[int, int]:
        metrics = self._bus.metrics()
        return metrics.uncertain, metrics.rejected

    def _confirm(self, before: tuple[int, int]) -> None:
        """Wait until the server has confirmed what was published.

        Another thread's ``flush()`` may be told what has become of it, so the counts are compared as well.

        Raises:
            DeliveryUncertainError: It has not confirmed all; or has not confirmed something of another thread.
        """
        self._bus.flush(_TIMEOUT)
        after = self._lost()
        if after != before:
            raise DeliveryUncertainError(
                "the server has not confirmed all that was published", uncertain=after[0] - before[0]
            )
