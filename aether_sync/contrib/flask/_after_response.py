"""Events that are published when a request has succeeded, after its response was sent.

What a view wants to be published is kept in the ``environ`` of its request. When Flask has the final response, behind
all handlers of errors and ``after_request`` functions, it tells so by its signal ``request_finished``. Then the events
are hung to the end of the response: its ``close()``, which the web server calls when it has sent the body (PEP 3333).
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, cast

from flask import Flask, Response, request
from werkzeug.wsgi import ClosingIterator

from ..._arguments import is_of
from ..._codec.encoding import encode_event
from ..._values.shown import short
from ...bus import EventBus
from ...errors import InvalidEventError
from ...events import Event
from ...patterns import check_namespace

__all__ = ["Waiting", "hang_on", "wait_for_response"]

_KEY = "aether_sync.after_response"  # in the environ
_FIRST_FAILURE = 400  # the lowest status of a response that tells of one


class Waiting:
    """Events of one request that wait for the end of its response; each is published once at most.

    Args:
        bus: Where they are published.
    """

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._events: deque[tuple[str, Event]] = deque()

    def add(self, namespace: str, event: Event) -> None:
        """Have an event published at the end."""
        self._events.append((namespace, event))

    def drop(self) -> None:
        """Publish nothing: the request has failed."""
        self._events.clear()

    def publish(self, app: Flask) -> None:
        """Publish the events. The response is sent already, so what goes wrong is logged."""
        while self._events:
            namespace, event = self._events.popleft()
            try:
                self._bus.publish(namespace, event)
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
    environ = request.environ
    namespace = check_namespace(namespace)
    if not is_of(event, Event):
        raise InvalidEventError(f"publish_after_response() takes an Event, not {type(event).__name__}")
    encode_event(event)  # so that the view gets the error, and not a log
    waiting = environ.get(_KEY)
    if waiting is None:
        waiting = environ[_KEY] = Waiting(bus)
    waiting.add(namespace, event)


def hang_on(app: Flask, response: Response, **_: Any) -> None:
    """Have the events of this request published at the end of its response: a receiver of ``request_finished``."""
    waiting: Waiting | None = request.environ.get(_KEY)
    if waiting is None:
        return
    if response.status_code >= _FIRST_FAILURE:
        waiting.drop()
    elif app.testing and not response.is_streamed:
        waiting.publish(app)  # the client of tests closes a response only if the test does
    elif response.direct_passthrough:  # a file, which the server gets without the response around it
        file = cast(Iterable[bytes], response.response)
        response.response = ClosingIterator(file, lambda: waiting.publish(app))
    else:
        if response.is_streamed:
            body = response.response
            response.response = ClosingIterator(_watched(body, waiting), getattr(body, "close", None))
        response.call_on_close(lambda: waiting.publish(app))


def _watched(body: Iterable[Any], waiting: Waiting) -> Iterator[Any]:
    """Give the parts of a body; if making one fails, the request has failed."""
    try:
        yield from body
    except GeneratorExit:  # the client has gone
        raise
    except BaseException:
        waiting.drop()
        raise
