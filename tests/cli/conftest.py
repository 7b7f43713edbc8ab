"""What all tests of the command line share: they start processes, as a shell does."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..support.shell import Running, interruptible, starting


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts commands, and kills what a test leaves of them."""
    with starting(tmp_path) as start:
        yield start


@pytest.fixture(autouse=True)
def _signals_not_ignored() -> Iterator[None]:
    with interruptible():
        yield


@pytest.fixture
def nowhere(free_port: int) -> str:
    """The URL of a server that is not there."""
    return f"nats://127.0.0.1:{free_port}"
