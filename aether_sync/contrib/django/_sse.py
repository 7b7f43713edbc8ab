"""``sse``: a response with server-sent events, which a web server for WSGI or for ASGI can send."""

from collections.abc import Awaitable, Iterable
from threading import current_thread, main_thread
from typing import Any, Self

from django.http import HttpRequest, HttpResponseBadRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase

from ...stores.event_store import EventStore
from ...subscription import Subscription
from ..sse import HEADERS, Encode, EventStream, LastEventIdError, end_at_stop, stream
from ._connections import get_store

__all__ = ["sse"]


def sse(
    request: HttpRequest,
    source: EventStore | Subscription | None = None,
    *,
    after: str | int | None = None,
    actors: str | None = None,
    event_types: Iterable[str | type] = (),
    encode: Encode | None = None,
    heartbeat: float = 10.0,
) -> HttpResponseBase:
    """Return a response with server-sent events, for a view to return, whichever kind of server asks it.

    A browser that comes back after a lost connection says by ``Last-Event-ID`` what it has got, and gets what is stored
    after that. If that header, or ``after``, makes no sense for the store, the response is a 400, with a sentence.

    A server for WSGI reads the events on the thread of the request. One for ASGI reads them on its event loop, also if
    the view is no coroutine, and ends them when it is told to stop. A view that is an ``async def`` calls this by
    ``await sync_to_async(sse)(request)``, as it may ask the store where it ends.

    Args:
        request: That of the view.
        source: A store, or a subscription of a bus; None for the store of the alias ``default``.
        after: What the page has got when it connects first, as a number or its text, such as
            ``request.GET.get("after")``: the sequence of an event, 0 to get all, or None to get what is stored from now
            on. ``Last-Event-ID`` comes before it. With a subscription, which has no past, it must be None.
        actors: A pattern of actor ids, such as ``"order-*"``: only events of these; None for all.
        event_types: Only events of these types, names or classes of the store's ``types``; none means all types.
        encode: Called with each event, for the text that the page gets; for None it does not get the event. By default
            the page gets JSON, without the metadata.
        heartbeat: Seconds without an event after which something is sent that no page sees.

    Raises:
        InvalidOptionError: An argument is wrong.
        StoreClosedError: The store is closed.
    """
    try:
        body = stream(
            get_store() if source is None else source,
            request.headers.get("Last-Event-ID"),
            after=after,
            actors=actors,
            event_types=event_types,
            encode=encode,
            heartbeat=heartbeat,
        )
    except LastEventIdError as error:
        return HttpResponseBadRequest(str(error), content_type="text/plain; charset=utf-8")
    is_of_asgi = hasattr(request, "scope")  # also of a request that wraps Django's, as that of REST framework does
    chunks: Any = _OnTheLoop(body) if is_of_asgi else body
    return StreamingHttpResponse(chunks, headers=HEADERS)


class _OnTheLoop:
    """A stream that has no iterator for threads, which Django would read to its end before it sent anything."""

    def __init__(self, body: EventStream) -> None:
        self._body = body
        self._chunks = aiter(body)

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[bytes]:
        _end_at_stop()
        return anext(self._chunks)

    def close(self) -> None:
        self._body.close()


_is_noted = False


def _end_at_stop() -> None:
    """Have the streams end when the server is told to stop: Django has no ``lifespan`` in which a project could."""
    global _is_noted
    if not _is_noted and current_thread() is main_thread():
        _is_noted = True
        end_at_stop()
