"""The requests of a store to the server: how many there are, and answers of a server that is behind."""

from typing import Any

import pytest

from aether_sync import JetStreamEventStore
from aether_sync._runtime.deadline import Deadline
from aether_sync.stores._jetstream.messages import Page

from .inside import jetstream_of

__all__ = ["Behind", "Requests"]


class Behind:
    """A server that knows only the records up to a sequence: its answer to a request for a page."""

    def __init__(self, page: Any, known: int) -> None:
        self._page, self._known = page, known
        self.forget = page.forget

    def __call__(self, deadline: Deadline) -> Page:
        return Page([one for one in self._page(deadline).records if one.sequence <= self._known], 0)


class Requests:
    """Counts the requests of a store, and how often it waited for answers with none of them on its way."""

    def __init__(self, store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent, self.trips, self._waits = 0, 0, False
        jetstream = jetstream_of(store)
        send, wait = jetstream._open_call, jetstream._wait

        def sending(*arguments: Any) -> Any:
            self.sent += 1
            self.trips += self._waits or self.sent == 1
            self._waits = False
            return send(*arguments)

        def waiting(*arguments: Any) -> Any:
            self._waits = True
            return wait(*arguments)

        monkeypatch.setattr(jetstream, "_open_call", sending)
        monkeypatch.setattr(jetstream, "_wait", waiting)

    def reset(self) -> None:
        self.sent, self.trips, self._waits = 0, 0, False
