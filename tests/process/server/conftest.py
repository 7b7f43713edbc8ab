"""What all tests of local servers share: nothing is left of any."""

import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aether_sync import NATSServer

from ...support.servers import children


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary directories are made, by subprocesses too: what is left there is left for good.

    Its path is short, as those of unix sockets have to be: multiprocessing makes one there.
    """
    with tempfile.TemporaryDirectory(prefix="t-") as directory:
        monkeypatch.setattr(tempfile, "tempdir", directory)
        monkeypatch.setenv("TMPDIR", directory)
        yield Path(directory)


@pytest.fixture(autouse=True)
def _no_process_left(server: NATSServer) -> Iterator[None]:
    """Fail a test after which this process has another child, a zombie included."""
    before = children()
    yield
    if not children() <= before:
        gc.collect()
    assert children() <= before
