"""``Aether``, the extension for Flask: gives each application a bus and a store, made of its ``app.config``."""

from collections.abc import Callable, Iterable
from typing import cast

from flask import Blueprint, Flask, Response, current_app, request, request_finished
from werkzeug.exceptions import BadRequest

from ..._arguments import is_of
from ..._values.shown import short
from ...bus import EventBus
from ...errors import InvalidOptionError
from ...event_types import EventTypes
from ...events import Event
from ...health import HasHealth, Health
from ...metrics import CloseReport
from ...stores.event_store import EventStore
from ...subscription import Subscription
from ..sse import HEADERS, Encode, LastEventIdError, stream
from ._after_response import hang_on, wait_for_response
from ._commands import commands
from ._health import make_blueprint
from ._parts import Parts
from ._settings import Settings

__all__ = ["Aether"]

_NAME = "aether"  # in app.extensions, and of the commands


class Aether:
    """Gives each Flask application a bus and a store, as its configuration says.

    Make one in a module, and register the application with :meth:`init_app`, or here. One extension serves any number
    of applications, each with settings of its own; an application has one such extension. Nothing connects before the
    first use, and then in the background, so :attr:`bus` can be used at once, and no request waits for a server that is
    away. It all works before and after a fork.

    The settings are the options of :class:`Connection`, :class:`NATSEventBus` and :class:`JetStreamEventStore`, in
    capitals behind ``AETHER_``: ``AETHER_URL``, ``AETHER_PREFIX``, ``AETHER_STREAM``, ``AETHER_NAMESPACE``, and so on.
    The URL ``memory:`` is for tests: bus and store are in the memory of the process then, and new for each application.
    With ``AETHER_STREAM = None`` there is no store.

    Args:
        app: An application to register, if there is one already.
        types: The classes of the events, for all applications.

    Raises:
        InvalidOptionError: As of :meth:`init_app`; or ``types`` are no :class:`EventTypes`.
    """

    def __init__(self, app: Flask | None = None, *, types: EventTypes | None = None) -> None:
        if types is not None and not is_of(types, EventTypes):
            raise InvalidOptionError(f"types must be EventTypes, not {short(types)}")
        self._types = types
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Register an application: check its settings, and make its bus and store. Nothing connects yet.

        Args:
            app: The application, with all its ``AETHER_...`` settings.

        Raises:
            InvalidOptionError: A setting is unknown or wrong; the error names it.
            RuntimeError: The application has such an extension already.
        """
        if not is_of(app, Flask):
            raise InvalidOptionError(f"init_app() takes a Flask application, not {short(app)}")
        if _NAME in app.extensions:
            raise RuntimeError(
                "An 'Aether' instance has already been registered on this Flask app. Import and use that instance "
                "instead."
            )
        app.extensions[_NAME] = Parts(self, Settings.read(app.config), self._types)
        request_finished.connect(hang_on, app)
        app.cli.add_command(commands, _NAME)

    # -- of the current application

    @property
    def bus(self) -> EventBus:
        """The bus of the current application.

        Raises:
            RuntimeError: There is no application context, or the application was not given to :meth:`init_app`.
        """
        return self._parts().bus

    @property
    def store(self) -> EventStore:
        """The store of the current application.

        Raises:
            RuntimeError: There is no application context, the application was not given to :meth:`init_app`, or it has
                no store, as ``AETHER_STREAM`` is None.
        """
        store = self._parts().store
        if store is None:
            raise RuntimeError("The current Flask app has no event store: its AETHER_STREAM is None.")
        return store

    def health(self, *, timeout: float | None = 0.5) -> Health:
        """Return the health of the bus and the store of the current application.

        Args:
            timeout: Seconds for the question to the server; 0 asks nothing.

        Raises:
            RuntimeError: As of :attr:`bus`.
        """
        return self._parts().health(timeout)

    def publish_after_response(self, namespace: str, event: Event) -> None:
        """Publish an event on the bus when the response to the current request has been sent, if that is a success.

        Nothing is published if the request ends by an exception or by a status of 400 or more, or if the body of a
        streamed response raises; nor if the process dies meanwhile. A client that goes away before it has everything
        changes nothing. Each event is published at most once. If the bus does not accept one, that is logged by the
        logger of the application.

        Whatever has the context of the request may call it: the body of a streamed response, a ``teardown_request``
        function, a thread that runs with ``copy_current_request_context``. After the end of the response it publishes
        at once, if that was a success.

        With ``app.testing``, a response that is not streamed counts as sent when Flask has made it, because the client
        of Flask's tests does not close its responses.

        Args:
            namespace: As for :meth:`EventBus.publish`.
            event: The event, whose data must not be changed any more.

        Raises:
            RuntimeError: There is no request, or as of :attr:`bus`.
            InvalidNamespaceError: The namespace is not valid.
            InvalidEventError: It is not an Event.
            EncodingError: Its data holds a value that cannot be written as JSON.
        """
        wait_for_response(self.bus, namespace, event)

    def sse(
        self,
        source: EventStore | Subscription | None = None,
        *,
        after: str | int | None = None,
        actors: str | None = None,
        event_types: Iterable[str | type] = (),
        encode: Encode | None = None,
        heartbeat: float = 10.0,
    ) -> Response:
        """Return a response with server-sent events, for a view to return.

        A browser that comes back after a lost connection says by ``Last-Event-ID`` what it has got, and gets what is
        stored after that. If that header, or ``after``, makes no sense for the store, the answer is 400, with a
        sentence.

        Args:
            source: A store or a subscription of the bus; None for the store of the current application.
            after: What the page has got when it connects first, as a number or its text, such as
                ``request.args.get("after")``: the sequence of an event, 0 to get all, or None to get what is stored
                from now on. ``Last-Event-ID`` comes before it. With a subscription, which has no past, it must be None.
            actors: A pattern of actor ids, such as ``"order-*"``: only events of these; None for all.
            event_types: Only events of these types, names or classes of the store's ``types``; none means all types.
            encode: Called with each event, for the text that the page gets; for None it does not get the event. By
                default the page gets JSON, without the metadata.
            heartbeat: Seconds without an event after which something is sent that no page sees.

        Raises:
            BadRequest: The ``Last-Event-ID``, or ``after``, is no number, or is ahead of the store. Flask answers 400.
            InvalidOptionError: Another argument is wrong.
            StoreClosedError: The store is closed.
            RuntimeError: There is no request, or as of :attr:`store`.
        """
        try:
            body = stream(
                self.store if source is None else source,
                request.headers.get("Last-Event-ID"),
                after=after,
                actors=actors,
                event_types=event_types,
                encode=encode,
                heartbeat=heartbeat,
            )
        except LastEventIdError as error:
            raise BadRequest(str(error)) from error
        return Response(body, headers=HEADERS)

    def _parts(self, app: Flask | None = None) -> Parts:
        found = (current_app if app is None else app).extensions.get(_NAME)
        if found is None or found.owner is not self:
            raise RuntimeError(
                f"The {'current ' if app is None else ''}Flask app is not registered with this 'Aether' instance. Did "
                "you forget to call 'init_app', or did you create multiple 'Aether' instances?"
            )
        return cast(Parts, found)

    # -- what an application is made of

    def health_blueprint(self, *parts: HasHealth | Callable[..., Health], timeout: float = 0.5) -> Blueprint:
        """Return a blueprint that answers probes: ``/healthz`` for readiness, ``/livez`` for liveness.

        What they answer is said by :func:`health_app`. They ask the bus and the store of the current application, and
        ``parts``.

        Args:
            *parts: What else is asked, such as a projection or a worker.
            timeout: Seconds for the question that each part puts to the server.

        Returns:
            The blueprint, for ``app.register_blueprint()``, which may be given a ``url_prefix``.

        Raises:
            InvalidOptionError: A part has no ``health()``, or ``timeout`` is no number of seconds.
        """
        return make_blueprint(self.health, *parts, timeout=timeout)

    def close(self, app: Flask | None = None, timeout: float | None = 5.0) -> CloseReport:
        """Close the bus and the store of an application, and send what was published.

        A program need not call it, as they are closed when the process ends. A test that makes an application which
        connects to a server calls it at its end.

        Args:
            app: The application; None for the current one.
            timeout: Seconds for all of it; None waits for ever.

        Returns:
            What was left undone; the report is true if nothing was.

        Raises:
            RuntimeError: There is no application, or it was not given to :meth:`init_app`.
        """
        return self._parts(app).close(timeout)

    def __repr__(self) -> str:
        return "<Aether>"
