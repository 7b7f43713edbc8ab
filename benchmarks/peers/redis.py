"""redis with hiredis: the pub/sub of a Redis server."""

from time import monotonic
from typing import Any

from ..cases import Job
from ..feeders import feed_redis
from .faces import PATIENCE, Client, Peer, Read, lost

__all__ = ["PEER"]


class _Redis(Client):
    def __init__(self, job: Job) -> None:
        import hiredis  # noqa: F401  # redis takes it where it is, and without it is another peer
        import redis

        self._client: Any = redis.Redis.from_url(job.redis)
        self._heard: Any
        self._read: Read

    def hear(self, subject: str, read: Read) -> None:
        self._heard = self._client.pubsub(ignore_subscribe_messages=True)
        self._heard.subscribe(subject)
        self._heard.get_message(timeout=PATIENCE)
        self._read = read

    def take(self, count: int) -> None:
        end = monotonic() + PATIENCE
        arrived = 0
        while arrived < count:
            message = self._heard.get_message(timeout=PATIENCE)
            if message is not None:
                self._read(message["data"])
                arrived += 1
            elif monotonic() > end:
                raise lost(arrived, count)

    def send(self, subject: str, payload: bytes) -> None:
        self._client.publish(subject, payload)  # its answer is the server's

    def close(self) -> None:
        self._client.close()


PEER = Peer(
    title="redis, hiredis",
    connect=_Redis,
    says="`pubsub().get_message()` in a loop; `publish()`, each of which waits for the server's answer.",
    needs=("redis", "hiredis", "redis-server"),
    feeder=feed_redis,
    shares={"receive": 0.5, "publish": 0.1},
)
