"""The two faces of a peer: one for clients that plain threads call, one for those with coroutines."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ..cases import WAIT, CannotMeasureError, Job
from ..feeders import feed_nats
from ..partner import Role

__all__ = ["AsyncClient", "AsyncPeer", "Client", "Peer", "Read", "lost"]

Read = Callable[[bytes], object]

PATIENCE = WAIT / 2  # seconds until what has not arrived is taken for lost


class Client(ABC):
    """A client that plain threads call. It is connected when it is made."""

    @abstractmethod
    def hear(self, subject: str, read: Read) -> None:
        """Subscribe, confirmed; ``read`` will be called with what arrives."""

    @abstractmethod
    def take(self, count: int) -> None:
        """Return when ``read`` was called so many times more."""

    @abstractmethod
    def send(self, subject: str, payload: bytes) -> object:
        """Publish one event."""

    def settle(self) -> object:
        """Return when the server has processed what was sent; for clients whose ``send`` waits for that, at once."""
        return None

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A client for plain threads, and how to use it well."""

    title: str
    connect: Callable[[Job], Client]
    says: str
    needs: tuple[str, ...] = ()
    feeder: Role = feed_nats
    takes_threads: bool = True  # several may publish by one client
    shares: Mapping[str, float] = field(default_factory=dict)  # of the events asked for, by question


@dataclass(frozen=True, slots=True)
class AsyncClient:
    """A client with coroutines: what a case awaits is the peer's own function."""

    publish: Callable[[str, bytes], Awaitable[object]]
    subscribe: Callable[
        [str, Callable[[Any], Awaitable[None]]], Coroutine[Any, Any, object]
    ]  # confirmed when it returns
    settle: Callable[[], Coroutine[Any, Any, object]]
    close: Callable[[], Coroutine[Any, Any, object]]
    payload_of: Callable[[Any], bytes]


def _standard() -> Callable[[], asyncio.AbstractEventLoop]:
    return asyncio.new_event_loop


@dataclass(frozen=True, slots=True, kw_only=True)
class AsyncPeer:
    """A client with coroutines, and how to use it well."""

    title: str
    connect: Callable[[Job], Coroutine[Any, Any, AsyncClient]]
    says: str
    needs: tuple[str, ...] = ()
    loop: Callable[[], Callable[[], asyncio.AbstractEventLoop]] = _standard  # imports what it needs
    shares: Mapping[str, float] = field(default_factory=dict)


def lost(arrived: int, sent: int) -> CannotMeasureError:
    """Say that a peer did not keep up."""
    return CannotMeasureError(f"it lost events: {arrived:,} of {sent:,} arrived within {PATIENCE:.0f} s")
