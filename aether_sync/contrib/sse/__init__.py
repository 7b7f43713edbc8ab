"""Server-sent events: the events of a store or a subscription as the body of a response, for WSGI and ASGI.

A web server iterates a stream, and a page reads it by the ``EventSource`` of the browser. Nothing but the standard
library and this package is needed.
"""

from collections.abc import Iterable

from ..._arguments import check_callback, check_seconds
from ..._values.shown import short
from ...errors import InvalidOptionError
from ...stores._checks import check_wanted
from ...stores.event_store import EventStore
from ...subscription import Subscription
from ._counts import StreamMetrics, metrics
from ._format import HEADERS
from ._stopping import end_at_stop
from ._store_stream import LastEventIdError, StoreStream
from ._stream import AsyncEventStream, Encode, EventStream
from ._subscription_stream import SubscriptionStream

__all__ = [
    "HEADERS",
    "AsyncEventStream",
    "Encode",
    "EventStream",
    "LastEventIdError",
    "StreamMetrics",
    "end_at_stop",
    "metrics",
    "stream",
]


def stream(
    source: EventStore | Subscription,
    last_event_id: str | None = None,
    *,
    after: str | int | None = None,
    actors: str | None = None,
    event_types: Iterable[str | type] = (),
    encode: Encode | None = None,
    heartbeat: float = 10.0,
) -> EventStream:
    """Return the body of a response with server-sent events; send it with :data:`HEADERS`.

    With a store, each event's id is its sequence, and a browser that has lost its connection comes back for the events
    after the last one that it has got: none is missing, and none comes twice. All streams of a process that have the
    same store share one follower, and one copy of the newest events. A client that is so slow that these are no longer
    there is dropped, and comes back.

    With a subscription, events come at most once, and without ids: what is published while a browser is away is lost.
    The subscription belongs to the stream, which closes it at its end. Give it a ``maxsize``, and
    ``overflow="fail"``: then a client that is too slow is dropped.

    This asks the store where it ends, for a second at most; to be sure that an id is ahead of it takes two more. While
    the store is away, the stream begins all the same, and has events as soon as the store is back: a browser that gets
    an error such as 503 would not come back. Without any of these two ids it begins then where the store ends when this
    process reaches it: nobody knows where it ended before. In a coroutine, call it by ``await
    asyncio.to_thread(stream, ...)``.

    Args:
        source: The store, or the subscription.
        last_event_id: The text of the header ``Last-Event-ID``: events of the store after that one; "0" for all. None
            or "" if there is none. A subscription ignores it.
        after: What the page has got when it connects first, as a number or its text, such as that of a query
            parameter: the sequence of an event, 0 to get all, or None to get what is stored from now on. The
            ``last_event_id`` comes before it. With a subscription, which has no past, it must be None.
        actors: A pattern of actor ids, such as ``"order-*"``: only events of these; None for all.
        event_types: Only events of these types, names or classes of the store's ``types``; none means all types.
        encode: Called with each event, for the text that the page gets; for None it does not get the event. Without
            it, the page gets JSON with the keys ``id``, ``eventType``, ``actorId``, ``version``, ``data`` and
            ``timestamp``, and ``namespace`` of a bus; so metadata does not leave the house.
        heartbeat: Seconds without an event after which something is sent that no page sees, so that proxies keep the
            connection, and the server notices when the client has left.

    Raises:
        LastEventIdError: ``last_event_id``, or ``after``, is no number, or is ahead of the store. Answer 400.
        InvalidOptionError: Another argument is wrong.
        StoreClosedError: The store is closed.
    """
    seconds = check_seconds("heartbeat", heartbeat)
    if encode is not None:
        check_callback("encode", encode, "an Event")
    if isinstance(source, Subscription):
        if actors is not None or tuple(event_types):
            raise InvalidOptionError("a subscription has its own filter: give actors and event_types to subscribe()")
        if after is not None:
            raise InvalidOptionError("a subscription has no past: after= is for the events of a store")
        return SubscriptionStream(source, encode, seconds)
    if not isinstance(source, EventStore):
        raise InvalidOptionError(f"stream() takes a store or a subscription, not {short(source)}")
    wanted = check_wanted("actors", actors, event_types, source.types)
    return StoreStream(source, wanted, last_event_id, after, encode, seconds)
