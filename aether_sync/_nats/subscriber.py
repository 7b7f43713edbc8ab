"""What is subscribed on the server: SUB and UNSUB are sent in order, and each SUB is confirmed.

The life of an interest::

    subscribe() -> ENTERED --SUB, PING--> UNCONFIRMED --PONG--> CONFIRMED
                      ^------ lost ------------'|               | -ERR: its right was revoked,
                                                '-- -ERR, PONG --> FAILED   or the next server refuses it
                                                                | unsubscribe() follows by itself
    any of them ----------------------- unsubscribe(): UNSUB --> GONE <--PONG, or lost-- LEAVING
    one of a queue group, subscribed -- unsubscribe(): UNSUB, PING -------------------------^

On the next connection, before the link counts as connected, a SUB is sent for every interest that is ENTERED or
CONFIRMED; it stays so unless the server refuses it. A LEAVING interest still gets the messages that the server has
chosen it for. GONE is final: if the subject is wanted again, a new interest with a new sid takes its place.

Each SUB is followed by a PING of its own, and the server answers in order. So many can be sent together, and still be
told apart: a refusal is about the SUB whose PING is the first unanswered one, whether the refusal names it or not. The
exception is the refusal of a subscription whose right was revoked: that comes at any time, and has the sid.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from functools import partial
from math import inf

from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error

from .._runtime.reporter import Kind, Reporter
from ..errors import AetherError, InvalidNamespaceError, PermissionDeniedError, SubscriptionClosedError
from .client import NATSClient, forget, sid_of
from .interest import Interest
from .lines import TOO_LONG, Lines, line_of
from .reasons import Refusal

__all__ = ["Subscriber"]

_AT_ONCE = 64  # changes that go out in one write


class Subscriber:
    """Keeps the subscriptions on the server in line with the interests. Loop thread only."""

    def __init__(self, reporter: Reporter, lines: Lines) -> None:
        self._reporter = reporter
        self._lines = lines
        self._interests: dict[Interest, NatsSubscription | None] = {}
        self._leaving: dict[
            Interest, NatsSubscription
        ] = {}  # of queue groups: UNSUB is sent, and messages may still come
        self._by_sid: dict[int, Interest] = {}  # of this client: sids start anew on the next one
        self._client: NATSClient | None = None
        self._changes: deque[Callable[[], Awaitable[None]]] = deque()
        self._changed = asyncio.Event()
        self._unconfirmed: deque[Interest] = deque()  # in the order of their PINGs
        self._closed: AetherError | None = None

    def resume(self, client: NATSClient, then: Callable[[NATSClient], None]) -> None:
        """Subscribe all interests on a new connection; ``then`` is called once the server has processed that."""
        self._client, self._by_sid = client, client.interests
        self._lines.meet(client.info.get("server_id"), client.line)
        for inbox in {interest.inbox for interest in self._interests}:
            inbox.move()
        for interest in self._in_order():
            self._interests[interest] = None
            self._do(partial(self._write_sub, interest))

        async def ping() -> None:
            client.ping(lambda: then(client))

        self._do(ping)

    def _in_order(self) -> list[Interest]:
        """Return the interests as they came; if a long line has ended a connection, by the lengths of their lines."""
        if self._lines.too_long == inf:
            return list(self._interests)
        return sorted(self._interests, key=_line)

    @property
    def line_in_question(self) -> int | None:
        """The length of the first SUB that is not answered; None if all are."""
        return _line(self._unconfirmed[0]) if self._unconfirmed else None

    def pause(self) -> None:
        """Keep what there is to send until there is another connection."""
        self._client = None
        self._unconfirmed.clear()
        for interest in list(self._leaving):
            self._forget(interest)

    def subscribe(self, interest: Interest) -> None:
        """Subscribe."""
        if self._closed is not None:
            interest.close(self._closed)
            return
        self._interests.setdefault(interest, None)
        self._do(partial(self._write_sub, interest))

    def unsubscribe(self, interest: Interest) -> None:
        """Unsubscribe."""
        self._do(partial(self._write_unsub, interest))

    def _do(self, change: Callable[[], Awaitable[None]]) -> None:
        self._changes.append(change)
        self._changed.set()

    async def run(self) -> None:
        """Carry out the changes, one after the other."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._changes:
                with nullcontext() if self._client is None else self._client.in_one_write():
                    for _ in range(min(_AT_ONCE, len(self._changes))):
                        with suppress(Error, OSError):  # the connection broke; resume() subscribes on the next one
                            await self._changes.popleft()()
                if self._changes:  # let the loop do other work in between
                    await asyncio.sleep(0)

    async def _write_sub(self, interest: Interest) -> None:
        client = self._client
        if (
            client is None or self._interests.get(interest, self) is not None
        ):  # it was unsubscribed, or is subscribed already
            return
        try:
            self._lines.take(_line(interest))
        except InvalidNamespaceError:
            self._fail(interest, _denied(interest, TOO_LONG))
            return
        subscription = await client.subscribe(interest.subject, queue=interest.group or "")
        self._by_sid[sid_of(subscription)] = interest
        self._interests[interest] = subscription
        self._unconfirmed.append(interest)
        client.ping(partial(self._confirm, client))

    async def _write_unsub(self, interest: Interest) -> None:
        if interest in self._leaving:
            return
        interest.confirmed.fail(SubscriptionClosedError("closed before the server had confirmed it"))
        subscription, client = self._interests.pop(interest, None), self._client
        if subscription is None or client is None:
            interest.conclude()
            return
        self._leaving[interest] = subscription
        client.write(b"UNSUB %d\r\n" % sid_of(subscription))
        if interest.group is None:
            self._forget(interest)
        else:
            client.ping(lambda: self._forget(interest))

    def _forget(self, interest: Interest) -> None:
        """Forget an interest after its last message. Called by the parser, so it must not raise."""
        subscription = self._leaving.pop(interest, None)
        if subscription is not None:
            self._by_sid.pop(sid_of(subscription), None)
            forget(subscription)
        asyncio.get_running_loop().call_soon(interest.conclude)  # after the delivery of what has arrived

    def _confirm(self, client: NATSClient) -> None:
        """Handle the PONG of the oldest unanswered PING. Called by the parser, so it must not raise."""
        if client is self._client and self._unconfirmed:
            self._unconfirmed.popleft().confirmed.set(None)  # without effect on one that was refused

    def refuse(self, refused: Refusal) -> bool:
        """Handle a refused or revoked subscription; returns whether it is known here."""
        if refused.sid is not None:
            interest = self._by_sid.get(refused.sid)
        else:
            interest = self._unconfirmed[0] if self._unconfirmed else None
        if interest is not None:
            self._fail(interest, _denied(interest, refused.why))
        return interest is not None

    def unreadable(self, sid: int) -> None:
        """Handle a message that nats-py could not read."""
        interest = self._by_sid.get(sid)
        if interest is not None:
            interest.inbox.refuse(interest.subject, "its subject or its headers cannot be read", self._reporter)

    def _fail(self, interest: Interest, error: PermissionDeniedError) -> None:
        if not interest.is_trial:
            text = "a subscription is denied: %s"
            self._reporter.warning(Kind.SUBSCRIPTION_DENIED, text, error, subscription=interest.subject)
        interest.fail(error)
        self.unsubscribe(interest)

    def close(self, error: AetherError) -> None:
        """End all interests, and release every thread that waits for a confirmation, or will."""
        self._client, self._closed = None, error
        for interest in self._interests:
            interest.close(error)
        for interest in (*self._interests, *self._leaving):
            interest.conclude()


def _line(interest: Interest) -> int:
    return line_of(interest.subject, interest.group)


def _denied(interest: Interest, why: str) -> PermissionDeniedError:
    group = f" in queue group {interest.group!r}" if interest.group else ""
    return PermissionDeniedError(f"the server permits no subscription to {interest.subject!r}{group}: {why}")
