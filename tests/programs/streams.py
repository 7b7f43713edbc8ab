"""Applications that stream a store's events, or a bus's: ``app`` for WSGI, ``asgi`` for ASGI."""

import asyncio
import json
import os
from collections.abc import Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs

from aether_sync import JetStreamEventStore, NATSEventBus
from aether_sync.contrib import sse

store = JetStreamEventStore(stream=os.environ["AETHER_TEST_STREAM"], connect="background")
bus = NATSEventBus(prefix=os.environ["AETHER_TEST_STREAM"], connect="background")


def about() -> bytes:
    """What this process has done, and what it needs for it."""
    with open("/proc/self/status") as status:
        memory = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    found = sse.metrics()
    said = {"pid": os.getpid(), "memory": memory, "open": found.open, "sent": found.sent, "dropped": found.dropped}
    return json.dumps({**said, "followers": len(store.metrics().followers)}).encode()


def opened(path: str, query: dict[str, list[str]], header: str | None) -> sse.EventStream:
    """The stream that a path asks for."""
    heartbeat = float(query.get("heartbeat", ["0.3"])[0])
    if path == "/bus":
        return sse.stream(bus.subscribe("shop.>", maxsize=1_000, overflow="fail"), header, heartbeat=heartbeat)
    after = header or query.get("after", [None])[0]
    return sse.stream(store, after, actors=query.get("actors", [None])[0], heartbeat=heartbeat)


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The application for WSGI."""
    path = environ["PATH_INFO"]
    if path == "/about":
        start_response("200 OK", [("Content-Type", "application/json")])
        return [about()]
    try:
        body = opened(path, parse_qs(environ["QUERY_STRING"]), environ.get("HTTP_LAST_EVENT_ID"))
    except sse.LastEventIdError as error:
        start_response("400 Bad Request", [("Content-Type", "text/plain")])
        return [str(error).encode()]
    start_response("200 OK", list(sse.HEADERS.items()))
    return body


def asgi() -> Any:
    """Return the application for ASGI."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response, StreamingResponse
    from starlette.routing import Route

    async def events(request: Request) -> Response:
        query = parse_qs(request.url.query)
        header = request.headers.get("last-event-id")
        try:
            stream = await asyncio.to_thread(opened, request.url.path, query, header)
        except sse.LastEventIdError as error:
            return PlainTextResponse(str(error), 400)
        return StreamingResponse(stream, headers=sse.HEADERS)

    async def said(request: Request) -> Response:
        return Response(about(), media_type="application/json")

    @asynccontextmanager
    async def lifespan(app: Any) -> Any:
        sse.end_at_stop()
        yield

    routes = [Route("/about", said), Route("/events", events), Route("/bus", events)]
    return Starlette(routes=routes, lifespan=lifespan)
