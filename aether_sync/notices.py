"""``Notice``: what the callbacks of ``connection.on()`` and ``bus.on()`` are called with. Frozen; it pickles."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Notice", "NoticeCallback", "NoticeKind"]

NoticeKind = Literal["connected", "disconnected", "reconnected", "uncertain", "dropped", "closed"]
"""What a notice is about: the name of the argument that its callback was given as."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What happened to a connection or a bus, in the words of :meth:`Connection.on` and :meth:`EventBus.on`.

    Attributes:
        kind: Which of the callbacks is called, by the name of its argument: ``"connected"``, ``"disconnected"``,
            ``"reconnected"``, ``"uncertain"``, ``"dropped"`` or ``"closed"``.
        url: The servers, as the program gave them, without secrets; ``""`` for an ``EventBus``, which has none.
        reason: Why, in words. Of ``"reconnected"``: why the connection had been lost, as ``"disconnected"`` said. Of
            ``"connected"``: why the last attempt failed, and ``""`` if none did. Of ``"closed"`` it is ``""`` if a
            ``close()`` left nothing undone.
        counts: Numbers of events. Of ``"uncertain"``: ``uncertain``. Of ``"dropped"``: all that the subscription has
            dropped so far, by their reason, as ``dropped_by_reason`` of :class:`SubscriptionStats`. Of ``"closed"``:
            ``unsent``, ``uncertain`` and ``rejected``, as :class:`CloseReport`, those that are not 0.
        subscription: Of ``"dropped"``: the subscription, by its patterns, as its repr shows them.
        seconds: Of ``"connected"`` and ``"reconnected"``: how long there was no connection.
    """

    kind: NoticeKind
    url: str = ""
    reason: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    subscription: str = ""
    seconds: float = 0.0


NoticeCallback = Callable[[Notice], object]
"""A user's function that is called with a notice; what it returns is ignored."""
