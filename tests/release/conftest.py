"""The wheel and the sdist of this checkout, built once for all tests of a run."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from ..support.common import UNIT
from ..support.installs import checkout


class Built(NamedTuple):
    """What ``python -m build`` makes."""

    wheel: Path
    sdist: Path


def build(source: Path, folder: Path, *, umask: int = 0o022) -> Built:
    """Build a folder's wheel and sdist as the guide says it."""
    done = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", folder, source],
        env={name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        umask=umask,
        timeout=200 * UNIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "absent from the `packages` configuration" not in done.stdout, done.stdout
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Built(wheel, sdist)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The wheel and the sdist of this checkout. The processes of a run share them."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "built"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "dist").exists():
            build(checkout(folder / "checkout"), folder / "new")
            (folder / "new").rename(folder / "dist")
    (wheel,), (sdist,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    return Built(wheel, sdist)
