"""nats-py-sync: runs nats-py's loop in the calling thread, for as long as each call takes."""

from typing import Any

from ..cases import Job
from .faces import PATIENCE, Client, Peer, Read, lost

__all__ = ["PEER"]


class _NatsPySync(Client):
    def __init__(self, job: Job) -> None:
        import nats_sync

        self._context = nats_sync.connect(job.url)
        self._barrier_subject = f"{job.prefix}.barrier"
        self._barrier = self._subscribe(self._barrier_subject)
        self._subscription: Any
        self._read: Read

    def _subscribe(self, subject: str) -> Any:
        subscription = self._context.subscribe(subject)
        self._context.publish(subject, b"")  # it has no flush: what comes back was subscribed
        subscription.recv(PATIENCE)
        return subscription

    def hear(self, subject: str, read: Read) -> None:
        self._subscription = self._subscribe(subject)
        self._read = read

    def take(self, count: int) -> None:
        from nats.errors import TimeoutError as NatsTimeoutError

        for number in range(count):
            try:
                message = self._subscription.recv(PATIENCE)
            except NatsTimeoutError:
                raise lost(number, count) from None
            self._read(message.data)

    def send(self, subject: str, payload: bytes) -> None:
        self._context.publish(subject, payload)

    def settle(self) -> None:
        self._context.publish(self._barrier_subject, b"")
        self._barrier.recv(PATIENCE)

    def close(self) -> None:
        self._context._loop.run_until_complete(self._context._nc.close())  # it has no close of its own


PEER = Peer(
    title="nats-py-sync",
    connect=_NatsPySync,
    says="`subscription.recv()`, `publish()`: each runs nats-py's loop in the calling thread until it is done.",
    needs=("nats_sync",),
    takes_threads=False,  # each call runs the loop
    shares={"receive": 0.2, "publish": 0.2},
)
