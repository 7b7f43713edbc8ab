"""The shapes of what servers answer: whatever has another one is no answer of a nats-server.

Only the fields that the checks read are here, and what the server leaves out may be missing. Where Go writes ``null``
for a list without items, it may be None.
"""

from typing import Any, NotRequired, TypedDict, TypeVar

import msgspec

__all__ = [
    "AccountInfo", "ConsumerInfo", "Failed", "Healthz", "Jsz", "Routez", "StreamInfo", "UserInfo", "Varz", "has_shape",
]  # fmt: skip

T = TypeVar("T")


class _Error(TypedDict, total=False):
    description: str
    err_code: int


class Failed(TypedDict):
    """An error instead of an answer of the JetStream API."""

    error: _Error


# -- the monitoring port


class _JetStreamConfig(TypedDict, total=False):
    max_memory: int
    max_storage: int
    sync_always: bool
    sync_interval: int


class _JetStreamStats(TypedDict, total=False):
    storage: int


class _JetStreamLimits(TypedDict, total=False):
    max_batch_size: int
    max_batch_inflight_per_stream: int
    max_duplicate_window: int


class _JetStream(TypedDict, total=False):
    config: _JetStreamConfig
    stats: _JetStreamStats
    limits: _JetStreamLimits


class _ClusterOptions(TypedDict, total=False):
    urls: list[str] | None


class Varz(TypedDict):
    """``/varz``."""

    server_id: str
    version: str
    server_name: NotRequired[str]
    now: NotRequired[str]
    start: NotRequired[str]
    connections: NotRequired[int]
    max_connections: NotRequired[int]
    max_subscriptions: NotRequired[int]
    slow_consumers: NotRequired[int]
    mem: NotRequired[int]
    gomemlimit: NotRequired[int]
    cluster: NotRequired[_ClusterOptions]
    jetstream: NotRequired[_JetStream]


class Healthz(TypedDict):
    """``/healthz``."""

    status: str
    error: NotRequired[str]


class _Peer(TypedDict, total=False):
    name: str
    current: bool
    offline: bool
    active: int
    lag: int


class _MetaCluster(TypedDict, total=False):
    leader: str
    cluster_size: int
    replicas: list[_Peer] | None


class Jsz(TypedDict):
    """``/jsz``."""

    server_id: str
    meta_cluster: NotRequired[_MetaCluster]


class _Route(TypedDict, total=False):
    remote_id: str


class Routez(TypedDict):
    """``/routez``."""

    server_id: str
    num_routes: int
    routes: list[_Route] | None


# -- requests


class _Server(TypedDict, total=False):
    time: str


class _User(TypedDict, total=False):
    user: str
    account: str
    account_name: str
    expires: int


class UserInfo(TypedDict, total=False):
    """``$SYS.REQ.USER.INFO``."""

    server: _Server
    data: _User


class _AccountLimits(TypedDict, total=False):
    max_storage: int
    max_streams: int
    max_consumers: int
    max_bytes_required: bool


class _Tier(TypedDict, total=False):
    storage: int
    streams: int
    consumers: int
    limits: _AccountLimits


class AccountInfo(_Tier, total=False):
    """``$JS.API.INFO``."""

    tiers: dict[str, _Tier]


class _StreamConfig(TypedDict):
    name: str
    num_replicas: NotRequired[int]
    max_bytes: NotRequired[int]
    max_msgs: NotRequired[int]
    max_msg_size: NotRequired[int]
    duplicate_window: NotRequired[int]


class _StreamState(TypedDict):
    messages: int
    bytes: int
    last_seq: int
    num_subjects: NotRequired[int]


class _StreamCluster(TypedDict, total=False):
    name: str
    leader: str
    replicas: list[_Peer] | None


class StreamInfo(TypedDict):
    """``$JS.API.STREAM.INFO``."""

    config: _StreamConfig
    state: _StreamState
    cluster: NotRequired[_StreamCluster]


class _ConsumerConfig(TypedDict, total=False):
    max_ack_pending: int


class ConsumerInfo(TypedDict):
    """One of ``$JS.API.CONSUMER.LIST``."""

    name: str
    config: NotRequired[_ConsumerConfig]
    num_pending: NotRequired[int]
    num_ack_pending: NotRequired[int]
    num_redelivered: NotRequired[int]
    num_waiting: NotRequired[int]
    push_bound: NotRequired[bool]


def has_shape(answer: Any, shape: type[T]) -> bool:
    """Whether an answer has a shape."""
    try:
        msgspec.convert(answer, shape)
    except msgspec.ValidationError:
        return False
    return True
