"""pynats2: a plain socket, a thread that reads it, and a pool of threads that run the callbacks."""

from threading import Event
from typing import Any

from ..cases import Job
from .faces import PATIENCE, Client, Peer, Read, lost

__all__ = ["PEER"]


class _Pynats2(Client):
    def __init__(self, job: Job) -> None:
        import pynats2

        self._client = pynats2.NATSClient(job.url, workers=1)  # one keeps the order, and is the fastest
        self._client.connect()
        self._barrier_subject = f"{job.prefix}.barrier"
        self._passed = Event()
        self._client.subscribe(self._barrier_subject, callback=lambda _: self._passed.set())
        self._arrived = self._goal = 0
        self._done = Event()

    def hear(self, subject: str, read: Read) -> None:
        def callback(message: Any) -> None:
            read(message.payload)
            self._arrived += 1
            if self._arrived >= self._goal:
                self._done.set()

        self._client.subscribe(subject, callback=callback)
        self.settle()

    def take(self, count: int) -> None:
        self._goal += count
        while self._arrived < self._goal:
            if not self._done.wait(PATIENCE):
                raise lost(self._arrived - self._goal + count, count)
            self._done.clear()

    def send(self, subject: str, payload: bytes) -> None:
        self._client.publish(subject, payload=payload)

    def settle(self) -> None:
        self._passed.clear()  # it has no flush: what comes back has passed the server
        self._client.publish(self._barrier_subject, payload=b"-")
        if not self._passed.wait(PATIENCE):
            raise lost(0, 1)

    def close(self) -> None:
        self._client.close()


PEER = Peer(
    title="pynats2",
    connect=_Pynats2,
    says="A callback on the one thread of its pool; `publish()` writes to the socket.",
    needs=("pynats2",),
    shares={"receive": 0.5, "publish": 0.5},
)
