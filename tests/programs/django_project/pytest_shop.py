"""Tests of the project, for pytest-django."""

import pytest
from shop.models import Mail

from aether_sync.contrib.django.testing import events_in_memory


@pytest.fixture
def aether(db):
    with events_in_memory() as aether:
        yield aether


def test_a_view(client, aether):
    client.post("/buy/7")
    aether.drain()
    assert aether.store.get_latest_version("order-7") == 1
    assert Mail.objects.get().order == "order-7"


@pytest.mark.django_db(transaction=True)
def test_real_commits(client, aether):
    aether.published.start()
    client.post("/announce/1")
    assert aether.published.events[0].actor_id == "order-1"
