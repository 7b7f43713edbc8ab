"""Events that are published when a request has succeeded, after its response was sent.

What is to be published is kept by the object ``request``: one that runs within another, of the same environ, has one of
its own, while a streamed body and a copy of the request's context have that of the view. When Flask has the final
response, behind all handlers of errors and ``after_request`` functions, it tells so by its signal ``request_finished``.
Then the events are hung to the end of the response: its ``close()``, which the web server calls when it has sent the
body (PEP 3333). asgiref's ``WsgiToAsgi`` does not, and lets go of the body: then that is the end.
"""

import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, cast

from flask import Flask, Response, current_app, request
from werkzeug.wsgi import ClosingIterator

from ..._arguments import is_of
from ..._codec.encoding import encode_event
from ..._values.shown import short
from ...bus import EventBus
from ...errors import InvalidEventError
from ...events import Event
from ...patterns import check_namespace

__all__ = ["Waiting", "hang_on", "wait_for_response"]

_KEY = "_aether_sync_after_response"  # among the attributes of a request
_FIRST_FAILURE = 400  # the lowest status of a response that tells of one


class Waiting:
    """Events of one request that wait for the end of its response. Each is published once at most. Any thread; no lock.

    The response is sent when they are published, so what goes wrong is logged.
    """

    def __init__(self) -> None:
        self._events: deque[tuple[EventBus, str, Event]] = deque()
        self._has_succeeded: bool | None = None  # None until the response is over

    def __bool__(self) -> bool:
        return bool(self._events)

    def add(self, bus: EventBus, namespace: str, event: Event) -> None:
        """Have an event published at the end: now, if that has come."""
        self._events.append((bus, namespace, event))
        if self._has_succeeded is not None:
            self._settle(current_app)

    def end(self, app: Flask, *, has_succeeded: bool) -> None:
        """Publish the events if the request has succeeded, or drop them if it has failed; the same with later ones.

        What is said first counts.
        """
        if self._has_succeeded is None:
            self._has_succeeded = has_succeeded  # first: then whoever adds an event sees that, or it is found here
        self._settle(app)

    def _settle(self, app: Flask) -> None:
        while self._events:
            try:
                bus, namespace, event = self._events.popleft()
            except IndexError:  # another thread has taken it
                return
            if self._has_succeeded:
                _publish(bus, namespace, event, app)


def _publish(bus: EventBus, namespace: str, event: Event, app: Flask) -> None:
    try:
        bus.publish(namespace, event)
    except Exception:
        app.logger.exception("the event %s was not published under %r", short(event), namespace)


def wait_for_response(bus: EventBus, namespace: str, event: Event) -> None:
    """Keep an event until the response to this request is sent.

    Raises:
        RuntimeError: There is no request.
        InvalidNamespaceError: The namespace is not valid.
        InvalidEventError: It is not an Event.
        EncodingError: Its data holds a value that cannot be written as JSON.
    """
    waiting = _of_request()
    namespace = check_namespace(namespace)
    if not is_of(event, Event):
        raise InvalidEventError(f"publish_after_response() takes an Event, not {type(event).__name__}")
    encode_event(event)  # so that the view gets the error, and not a log
    waiting.add(bus, namespace, event)


def _of_request() -> Waiting:
    """Return what waits for the end of this request; two threads that have copies of its context get the same."""
    found: Waiting = request.__dict__.setdefault(_KEY, Waiting())
    return found


def hang_on(app: Flask, response: Response, **_: Any) -> None:
    """Have the events of this request published at the end of its response: a receiver of ``request_finished``.

    A response without events is treated alike, as its body and functions that are called later may have some.
    """
    waiting = _of_request()
    if response.status_code >= _FIRST_FAILURE:
        waiting.end(app, has_succeeded=False)
    elif app.testing and not response.is_streamed:
        waiting.end(app, has_succeeded=True)  # the client of tests closes a response only if the test does
    elif not response.direct_passthrough:
        _hang_on_body(app, response, waiting)
    elif waiting:  # a file, which the server gets without the response around it
        file = cast(Iterable[bytes], response.response)
        response.response = ClosingIterator(file, lambda: waiting.end(app, has_succeeded=True))
        _end_with(response.response, app, waiting)
    else:
        waiting.end(app, has_succeeded=True)  # early: servers send a file faster if there is nothing around it


def _hang_on_body(app: Flask, response: Response, waiting: Waiting) -> None:
    if response.is_streamed:
        body = response.response
        response.response = ClosingIterator(_watched(app, body, waiting), getattr(body, "close", None))
    response.call_on_close(lambda: waiting.end(app, has_succeeded=True))
    _end_with(response, app, waiting)


def _end_with(body: object, app: Flask, waiting: Waiting) -> None:
    """Publish the events if what is sent is let go of without a ``close()``; behind one, it does nothing."""
    weakref.finalize(body, waiting.end, app, has_succeeded=True).atexit = False


def _watched(app: Flask, body: Iterable[Any], waiting: Waiting) -> Iterator[Any]:
    """Give the parts of a body; if making one fails, the request has failed."""
    try:
        yield from body
    except GeneratorExit:  # the client has gone
        raise
    except BaseException:
        waiting.end(app, has_succeeded=False)
        raise
