"""``Page``: reads server-sent events as a browser's ``EventSource`` does, and connects again as that does.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import NamedTuple, Self

from .common import PATIENCE

__all__ = ["Message", "Page", "messages_of"]


class Message(NamedTuple):
    """What an ``EventSource`` dispatches."""

    last_event_id: str
    name: str
    data: str


class _Parser:
    """Interprets a stream, line by line."""

    def __init__(self) -> None:
        self.last_event_id = self._id = ""
        self.retry = 3.0
        self._name, self._data = "", ""

    def line(self, line: str) -> Message | None:
        if not line:
            self.last_event_id = self._id
            name, data = self._name, self._data
            self._name, self._data = "", ""
            return Message(self._id, name or "message", data[:-1]) if data else None
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data += value + "\n"
        elif field == "event":
            self._name = value
        elif field == "id" and "\0" not in value:
            self._id = value
        elif field == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value) / 1000
        return None


def messages_of(chunk: bytes) -> list[Message]:
    """What a browser makes of a whole stream."""
    parser = _Parser()
    text = chunk.decode().replace("\r\n", "\n").replace("\r", "\n")
    assert text.endswith("\n\n"), "whole messages"
    return [found for line in text[:-1].split("\n") if (found := parser.line(line)) is not None]


class Page:
    """A page with an ``EventSource``, on a thread.

    Attributes:
        got: The messages so far.
        opened: How often it has connected.
        status: The last status.
        last_event_id: What it sends when it connects again.
    """

    def __init__(self, port: int, path: str = "/events", retry: float | None = 0.05) -> None:
        self._port, self._path, self._retry = port, path, retry
        self.got: list[Message] = []
        self.opened = 0
        self.status = 0
        self.last_event_id = ""
        self.is_failed = False
        self._closed = False
        self._connection: http.client.HTTPConnection | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def numbers(self) -> list[int]:
        """The ``n`` of the events that it has got."""
        return [json.loads(one.data)["data"]["n"] for one in self.got]

    def _run(self) -> None:
        while not self._closed:
            with suppress(OSError, http.client.HTTPException, AttributeError, ValueError):
                if not self._connect():
                    self.is_failed = True
                    return
            time.sleep(self._retry or 3.0)

    def _connect(self) -> bool:
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)) as self._connection:
            return self._read(self._connection)

    def _read(self, connection: http.client.HTTPConnection) -> bool:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self.last_event_id:
            headers["Last-Event-ID"] = self.last_event_id
        connection.request("GET", self._path, headers=headers)
        response = connection.getresponse()
        self.status = response.status
        if self.status != 200 or not (response.headers["Content-Type"] or "").startswith("text/event-stream"):
            return False
        self.opened += 1
        parser = _Parser()
        parser._id = self.last_event_id
        for line in _lines(response):
            message = parser.line(line)
            self.last_event_id = parser.last_event_id
            if message is not None:
                self.got.append(message)
        return True

    def close(self) -> None:
        """Leave the page."""
        self._closed = True
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *about: object) -> None:
        self.close()


def _lines(response: http.client.HTTPResponse) -> Iterator[str]:
    while line := response.readline():
        yield line.decode().rstrip("\n")
