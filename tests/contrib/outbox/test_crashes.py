"""Every committed event is stored exactly once, whatever is killed when: see ``crashing``."""

import subprocess
import sys
from pathlib import Path

import pytest

from ...support.common import PATIENCE
from ...support.shell import environment
from .crashing import PLACES

_ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", PLACES)
def test_every_committed_event_is_stored_once_whatever_is_killed(kind: str, postgres_port: str) -> None:
    command = [sys.executable, "-m", "tests.contrib.outbox.crashing", kind, "--rounds", "5"]
    done = subprocess.run(
        command, cwd=_ROOT, env=environment(), capture_output=True, text=True, timeout=PATIENCE * 40, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "those of the store exactly once, and in order" in done.stdout
