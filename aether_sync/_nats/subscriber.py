"""Interests to the server: SUB and UNSUB, in the order in which they were asked for, each SUB confirmed.

The life of an interest::

    enter() --> ENTERED --SUB, PING--> UNCONFIRMED --PONG--> CONFIRMED
                   '----- disconnect -------'|                   |
                                             |-- -ERR, PONG --> FAILED <-- -ERR: right revoked, or refused by the next
                                             |                   |                                             server
                any of them but GONE --leave(): UNSUB--> GONE    '-- leave() follows by itself
                of a queue group, with its SUB sent --leave(): UNSUB, PING--> LEAVING --PONG, or disconnect--> GONE

What is ENTERED when there is a connection again is sent by :meth:`Subscriber.resume`. What is CONFIRMED stays so: its
SUB is sent again by nats-py, or by ``resume()`` if the client is another. LEAVING still takes what the server has
chosen it for, and is forgotten before nats-py would send its SUB again. GONE is for good: a new interest, with a new
sid, takes its place if the subject is wanted again.

The server answers in order, so an ``-ERR`` that comes before the PONG of the first unanswered PING, and names its
subject, is about that SUB.
"""

import asyncio
from collections import OrderedDict, deque
from contextlib import suppress

from nats.aio.client import Client
from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error

from ..errors import AetherError, PermissionDeniedError, SubscriptionClosedError
from .reasons import Refusal
from .receive import Interest
from .reporter import Reporter
from .wire import Wire, forget, sid_of

__all__ = ["Subscriber"]


class Subscriber:
    """Keeps the server's subscriptions as the interests want them. Loop thread only."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._interests: dict[Interest, NatsSubscription | None] = {}
        self._leaving: dict[Interest, NatsSubscription] = {}  # of queue groups: UNSUB is sent, messages may still come
        self._by_sid: dict[int, Interest] = {}  # of the client of this moment
        self._client: Client | None = None
        self._wire: Wire | None = None  # while connected
        self._changes: deque[tuple[Interest, bool]] = deque()  # (interest, wanted)
        self._changed = asyncio.Event()
        self._unconfirmed: OrderedDict[Interest, None] = (
            OrderedDict()
        )  # asked for on this wire, in order of their PINGs
        self._refused: dict[Interest, PermissionDeniedError] = {}  # of those, until their PONG comes
        self._closed: AetherError | None = None

    def use(self, client: Client) -> dict[int, Interest]:
        """Begin anew on another client; returns the mapping by which its messages are routed."""
        self._client, self._wire = client, None
        self._interests = dict.fromkeys(self._interests)
        self._by_sid = {}
        return self._by_sid

    def resume(self, wire: Wire) -> None:
        """Send from now on: first what is not yet subscribed, or not yet confirmed."""
        self._wire = wire
        for interest in self._interests:
            if self._interests[interest] is None or not interest.confirmed.done:
                self._changes.append((interest, True))
        self._changed.set()

    def pause(self) -> None:
        """Hold what there is to send. nats-py sends the confirmed subscriptions again when it has reconnected."""
        self._wire = None
        self._unconfirmed.clear()
        self._refused.clear()
        for interest in list(self._leaving):  # before nats-py reconnects and sends its SUB again
            self._forget(interest)

    def enter(self, interest: Interest) -> None:
        """Subscribe."""
        if self._closed is not None:
            interest.close(self._closed)
            return
        self._interests.setdefault(interest, None)
        self._changes.append((interest, True))
        self._changed.set()

    def leave(self, interest: Interest) -> None:
        """Unsubscribe."""
        self._changes.append((interest, False))
        self._changed.set()

    async def run(self) -> None:
        """Carry out the changes, one after the other."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            done = 0
            while self._changes:
                interest, wanted = self._changes.popleft()
                with suppress(Error, OSError):  # the connection broke: resume() finds what is missing
                    if wanted:
                        await self._subscribe(interest)
                    else:
                        self._unsubscribe(interest)
                done += 1
                if done % 64 == 0:  # nats-py's flush queue is bounded, and its flusher wants a turn
                    await asyncio.sleep(0)

    async def _subscribe(self, interest: Interest) -> None:
        wire, client = self._wire, self._client
        if wire is None or client is None or interest not in self._interests:
            return
        if interest in self._unconfirmed or (self._interests[interest] is not None and interest.confirmed.done):
            return  # it came twice, by enter() and by resume(): in between two SUBs it would be deaf
        self._drop(interest)  # an unconfirmed one of before a reconnect
        subscription = await client.subscribe(interest.subject, queue=interest.group or "")
        self._by_sid[sid_of(subscription)] = interest
        self._interests[interest] = subscription
        if interest.confirmed.done:
            wire.push()
        else:
            self._unconfirmed[interest] = None
            wire.ping(self._confirm)

    def _unsubscribe(self, interest: Interest) -> None:
        interest.confirmed.fail(SubscriptionClosedError("closed before the server had confirmed it"))
        subscription, wire = self._interests.get(interest), self._wire
        if interest in self._leaving:
            return
        if interest.group is None or subscription is None or wire is None:
            self._drop(interest)
            self._interests.pop(interest, None)
            interest.gone.set(None)
        else:
            del self._interests[interest]
            self._leaving[interest] = subscription
            wire.write(_unsub(subscription))
            wire.ping(lambda: self._forget(interest))

    def _forget(self, interest: Interest) -> None:
        """The server has sent the last message for an interest, or never will. Called by the parser: must not raise."""
        subscription = self._leaving.pop(interest, None)
        if subscription is not None:
            self._by_sid.pop(sid_of(subscription), None)
            forget(subscription)
        asyncio.get_running_loop().call_soon(interest.gone.set, None)  # behind the delivery of what has arrived

    def _drop(self, interest: Interest) -> None:
        """Let the server send no more for an interest.

        Written past nats-py's flusher: while that waits for a frozen server its queue fills, and whoever then waits for
        the queue waits for ever if nats-py gives the client up.
        """
        subscription = self._interests.get(interest)
        if subscription is not None:
            self._interests[interest] = None
            self._by_sid.pop(sid_of(subscription), None)
            forget(subscription)
            if self._client is not None and self._client.is_connected:  # else no server knows of it
                with suppress(OSError):
                    Wire(self._client).write(_unsub(subscription))

    def _confirm(self) -> None:
        """The PONG of the oldest unanswered PING is here. Called by the parser: must not raise."""
        if not self._unconfirmed:
            return
        interest, _ = self._unconfirmed.popitem(last=False)
        error = self._refused.pop(interest, None)
        if error is None:
            interest.confirmed.set(None)
        else:
            self._fail(interest, error)

    def refuse(self, refused: Refusal) -> None:
        """The server refused a subscription, or ended one whose right was revoked."""
        if refused.sid is not None:
            concerned = [one for sid, one in self._by_sid.items() if sid == refused.sid]
        else:
            concerned = [one for one in self._interests if _is_named(one, refused)]
            first = next(iter(self._unconfirmed), None)
            if first is not None and first in concerned:
                self._refused[first] = _denied(first)
                return
        for interest in concerned:
            self._fail(interest, _denied(interest))

    def unreadable(self, sid: int) -> None:
        """A message came that nats-py could not read."""
        interest = self._by_sid.get(sid)
        if interest is not None:
            interest.inbox.refuse(interest.subject, "its subject or its headers cannot be read", self._reporter)

    def _fail(self, interest: Interest, error: PermissionDeniedError) -> None:
        self._reporter.warning("%s", error)
        interest.fail(error)
        self.leave(interest)

    def close(self, error: AetherError) -> None:
        """Release everyone who waits for a confirmation, or will, and end what is still subscribed."""
        self._wire, self._closed = None, error
        for interest in self._interests:
            interest.close(error)


def _is_named(interest: Interest, refused: Refusal) -> bool:
    return (interest.subject.lower(), (interest.group or "").lower()) == (refused.subject, refused.queue)


def _unsub(subscription: NatsSubscription) -> bytes:
    return b"UNSUB %d\r\n" % sid_of(subscription)


def _denied(interest: Interest) -> PermissionDeniedError:
    group = f" in queue group {interest.group!r}" if interest.group else ""
    return PermissionDeniedError(
        f"the server permits no subscription to {interest.subject!r}{group}: its user lacks that right"
    )
