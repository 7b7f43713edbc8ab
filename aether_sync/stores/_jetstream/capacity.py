"""Whether an account has room for a save: a server with one replica notices it in the middle only."""

from collections.abc import Sequence
from typing import Any

from ..._runtime.deadline import Deadline
from ..._values.clock import monotonic
from ...errors import StoreUnavailableError
from .api import JetStream
from .messages import Outgoing, stored_size

__all__ = ["Capacity"]

_TIGHT = 60.0  # seconds after a sign of no room, in which the account is asked before each batch


class Capacity:
    """Asks for the room that is left, once there was a sign that it ends. Any thread."""

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        self._tight_until = 0.0  # written by any thread: the last one is right

    def doubt(self) -> None:
        """Note a sign that it ends."""
        self._tight_until = monotonic() + _TIGHT

    def check(self, messages: Sequence[Outgoing], batch: bytes, deadline: Deadline) -> None:
        """Refuse a batch for which there is no room, as far as the account tells.

        Raises:
            StoreUnavailableError: There is none.
        """
        if monotonic() >= self._tight_until:
            return
        info = self._jetstream.request("INFO", {}, deadline)
        account: dict[str, Any] = info.get("tiers", {}).get("R1", info)
        used, most = account.get("storage", 0), account.get("limits", {}).get("max_storage", -1)
        needed = stored_size(messages, batch)
        if 0 <= most < used + needed:
            raise StoreUnavailableError(
                f"the account has no room for it: {used:,} of {most:,} bytes are used, and it takes {needed:,}. "
                "Nothing was sent"
            )
