"""Server-sent events for views: under a server of WSGI and of ASGI, and of what a browser says it has."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from django.http import StreamingHttpResponse
from django.test import AsyncRequestFactory, RequestFactory

from aether_sync import ANY_VERSION, Event
from aether_sync.contrib.django import bus, get_bus, sse, store
from aether_sync.contrib.django.testing import events_in_memory


@pytest.fixture(autouse=True)
def _in_memory() -> Iterator[None]:
    with events_in_memory():
        for number in range(3):
            actor = f"order-{number}"
            store.append(actor, Event(event_type="OrderPlaced", actor_id=actor), expected_version=ANY_VERSION)
        yield


def streamed(response: Any) -> StreamingHttpResponse:
    assert isinstance(response, StreamingHttpResponse)
    assert response.headers["Content-Type"].startswith("text/event-stream")
    return response


def test_a_browser_that_comes_back_gets_what_it_has_not() -> None:
    request = RequestFactory().get("/events", headers={"Last-Event-ID": "2"})
    with closing(streamed(sse(request, after="1"))) as response:
        chunks = iter(response)
        assert b"id: 3\nevent: OrderPlaced\n" in next(chunks) + next(chunks)


def test_a_page_may_say_by_a_number_what_it_has() -> None:
    with closing(streamed(sse(RequestFactory().get("/events"), after=2))) as response:
        chunks = iter(response)
        assert b"id: 3\nevent: OrderPlaced\n" in next(chunks) + next(chunks)


@pytest.mark.parametrize("after", ["x", "77", 77])
def test_what_makes_no_sense_is_a_400(after: str | int) -> None:
    response = sse(RequestFactory().get("/events"), after=after)
    assert response.status_code == 400
    assert response.content.startswith(b"after ")  # type: ignore[attr-defined]
    assert response.headers["Content-Type"].startswith("text/plain")


def test_of_a_subscription_too() -> None:
    with closing(streamed(sse(RequestFactory().get("/events"), get_bus().subscribe("orders")))) as response:
        bus.publish("orders", Event(event_type="OrderPlaced", actor_id="order-7"))
        chunks = iter(response)
        assert b"order-7" in next(chunks) + next(chunks)


def test_a_server_for_asgi_reads_it_on_its_loop() -> None:
    async def read() -> bytes:
        chunks = aiter(response)
        return await anext(chunks) + await anext(chunks)

    with closing(streamed(sse(AsyncRequestFactory().get("/events"), after="2"))) as response:
        assert response.is_async
        assert b"id: 3\nevent: OrderPlaced\n" in asyncio.run(read())
