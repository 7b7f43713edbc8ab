"""Each event takes effect exactly once, whatever is killed when; and how programs end that project."""

import random
from pathlib import Path

import pytest

from ..programs import projecting
from ..programs.run import run
from ..support.common import PATIENCE
from ..support.places import SQLitePlace
from .crashing import PLACES, Crashes, prepared


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", PLACES)
def test_the_rows_are_the_fold_over_the_stream_whatever_is_killed(
    kind: str, tmp_path: Path, postgres_port: str
) -> None:
    seed = random.randrange(10**9)
    print(f"seed {seed}")
    with prepared(kind, tmp_path, postgres_port) as (place, server):
        Crashes(place, server, seed).run(10)


@pytest.mark.slow
def test_a_forked_child_does_not_project(sqlite_place: SQLitePlace) -> None:
    assert run(projecting.forks, sqlite_place.path) == "done\n"


def test_the_end_of_the_program_finishes_the_batch(sqlite_place: SQLitePlace) -> None:
    assert run(projecting.ends_while_projecting, sqlite_place.path, "works") == "ends\n"
    assert sqlite_place.applied == [1]


@pytest.mark.slow
def test_the_end_of_the_program_leaves_a_batch_that_hangs(sqlite_place: SQLitePlace) -> None:
    run(projecting.ends_while_projecting, sqlite_place.path, "hangs", within=PATIENCE, says="leaves apply() behind")
    assert sqlite_place.applied == []
