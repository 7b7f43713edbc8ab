"""What all themes share: each test gets two nodes, one that subscribes and one that publishes.

A subclass says by ``nodes`` what it means to publish "elsewhere": for a bus of one process that is the same bus, for a
cluster another node.
"""

import pytest

from aether_sync import EventBus

Nodes = tuple[EventBus, EventBus]


class TwoNodes:
    """Each test gets two nodes: one that subscribes, one that publishes."""

    @pytest.fixture
    def nodes(self) -> Nodes:
        raise NotImplementedError

    @pytest.fixture
    def here(self, nodes: Nodes) -> EventBus:
        return nodes[0]

    @pytest.fixture
    def there(self, nodes: Nodes) -> EventBus:
        return nodes[1]
