"""What a user would pick instead, each behind one of two small faces, so that every peer is measured by the same code.

PyZMQ has no server, and so is measured by code of its own, in :mod:`.pyzmq`.
"""

from . import nats_py, nats_py_sync, natsrpy, pynats2, redis
from .faces import AsyncPeer, Peer

__all__ = ["PEERS"]

PEERS: dict[str, Peer | AsyncPeer] = {
    "nats-py": nats_py.PEER,
    "nats-py-uvloop": nats_py.ON_UVLOOP,
    "call": nats_py.CALL_PER_EVENT,
    "nats-py-sync": nats_py_sync.PEER,
    "pynats2": pynats2.PEER,
    "natsrpy": natsrpy.PEER,
    "redis": redis.PEER,
}
