"""Every committed event is stored exactly once, whatever is killed when: see ``crashing``."""

import random
from pathlib import Path

import pytest

from .crashing import PLACES, Crashes, prepared


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", PLACES)
def test_every_committed_event_is_stored_once_whatever_is_killed(kind: str, tmp_path: Path, postgres_port: str) -> None:
    seed = random.randrange(10**9)
    print(f"seed {seed}")
    with prepared(kind, tmp_path, postgres_port) as (place, server):
        assert Crashes(place, server, seed).run(5) > 0
