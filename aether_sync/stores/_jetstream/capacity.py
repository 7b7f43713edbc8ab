"""``Capacity``: whether an account has room for a batch. A server with one replica only notices in the middle of it."""

from collections.abc import Sequence
from typing import Any

from ..._runtime.deadline import Deadline
from ..._values.clock import monotonic
from ...errors import StoreUnavailableError
from .api import JetStream
from .messages import Outgoing, new_batch, stored_size

__all__ = ["Capacity"]

_TIGHT = 60.0  # seconds after a sign of too little room, in which the account is read before each batch


class Capacity:
    """Reads how much room an account has left, once there was a sign that it is too little. Any thread may call it."""

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        self._tight_until = 0.0  # written by any thread; the last write is right

    def doubt(self) -> None:
        """Note a sign that there is too little room."""
        self._tight_until = monotonic() + _TIGHT

    @property
    def is_tight(self) -> bool:
        """Whether there was such a sign lately."""
        return monotonic() < self._tight_until

    def check(self, messages: Sequence[Outgoing], deadline: Deadline) -> None:
        """Refuse a batch for which the account has no room.

        Args:
            messages: The messages of the batch.
            deadline: For the request.

        Raises:
            StoreUnavailableError: There is too little room.
        """
        info = self._jetstream.request("INFO", {}, deadline)
        account: dict[str, Any] = info.get("tiers", {}).get("R1", info)
        used, most = account.get("storage", 0), account.get("limits", {}).get("max_storage", -1)
        needed = stored_size(messages, new_batch(len(messages)))
        if 0 <= most < used + needed:
            raise StoreUnavailableError(
                f"the account has no room for it: {used:,} of {most:,} bytes are used, and it takes {needed:,}. "
                "Nothing was sent"
            )
