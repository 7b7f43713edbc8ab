"""``NATSCluster``: several local servers that know each other."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import nats
import pytest

from aether_sync.errors import InvalidOptionError, ServerError
from aether_sync.server.cluster import NATSCluster

from ...support.common import eventually
from ...support.servers import (
    count_stored,
    greeting,
    store_one,
)


def test_cluster(temporary: Path) -> None:
    with NATSCluster(3) as cluster:
        assert isinstance(cluster, NATSCluster)
        assert len(cluster.servers) == len(set(cluster.urls)) == 3
        assert cluster.url.split(",") == cluster.urls
        store_one(cluster.servers[1], replicas=3)
        eventually(lambda: count_stored(cluster.servers[0]) == 1)
        cluster.servers[0].kill()
        with pytest.raises(ServerError, match="not running"):
            cluster.wait_ready()
    assert not any(server.is_running for server in cluster.servers)
    assert os.listdir(temporary) == []
    cluster.stop()
    with pytest.raises(ServerError, match="not started"):
        cluster.wait_ready()


@pytest.mark.slow
def test_cluster_of_which_a_server_was_away() -> None:
    with NATSCluster(3) as cluster:
        store_one(cluster.servers[1], replicas=3)
        cluster.servers[0].kill()
        cluster.servers[0].restart()
        cluster.wait_ready()
        eventually(lambda: count_stored(cluster.servers[0]) == 1)  # when the stream has its leader, too


@pytest.mark.slow
def test_cluster_again_with_its_store(tmp_path: Path) -> None:
    cluster = NATSCluster(2, name="pair", store_dir=tmp_path)
    with cluster:
        urls = cluster.urls
        store_one(cluster.servers[0])
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.name != "temporary") == ["pair-1", "pair-2"]
    with cluster:
        assert cluster.urls == urls
        eventually(lambda: count_stored(cluster.servers[1]) == 1)  # when the stream has its leader, too


def test_cluster_without_jetstream_has_routes() -> None:
    with NATSCluster(2, jetstream=False, config="max_payload: 5000") as cluster:

        async def use() -> None:
            first, second = [await nats.connect(url) for url in cluster.urls]
            subscription = await first.subscribe("x")
            await first.flush()
            while True:  # interest travels from server to server
                await second.publish("x", b"")
                with suppress(nats.errors.TimeoutError):
                    await subscription.next_msg(timeout=0.1)
                    break
            await first.close()
            await second.close()

        asyncio.run(use())
        assert all(greeting(server)["max_payload"] == 5000 for server in cluster.servers)


def test_cluster_that_does_not_start(temporary: Path) -> None:
    with pytest.raises(ServerError, match="Parse error"), NATSCluster(2, config="max_payload: {"):
        pass
    assert os.listdir(temporary) == []
    with pytest.raises(InvalidOptionError):
        NATSCluster(0)
