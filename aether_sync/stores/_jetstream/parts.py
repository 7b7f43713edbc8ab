"""``StoreParts``: what is made once for a store, and what its followers and consumers are made with."""

from dataclasses import dataclass

from ..._nats.channel import Channel
from ..._runtime.reporter import Reporter
from .._measuring import StoreCounts
from .api import JetStream
from .cache import VersionCache
from .names import Names
from .reader import Reader
from .stream import Stream

__all__ = ["StoreParts"]


@dataclass(frozen=True, slots=True)
class StoreParts:
    """The parts of a JetStream store that read.

    Attributes:
        channel: What is used of the connection.
        reporter: Logs for the store: it is the connection's.
        jetstream: Puts requests to the server.
        names: The names and subjects of its streams.
        stream: The stream of its events.
        cache: What is known of the versions of actors.
        reader: Reads events.
        counts: What the store counts.
    """

    channel: Channel
    reporter: Reporter
    jetstream: JetStream
    names: Names
    stream: Stream
    cache: VersionCache
    reader: Reader
    counts: StoreCounts
