"""The oldest nats-py that setup.cfg allows: what depends on it most is run with that one, over both paths."""

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.common import UNIT

ROOT = Path(__file__).parents[2]

TESTS = [
    "bus/test_nats_bus.py",
    "unit/test_fast_reader.py",
    "unit/test_client.py",
    "bus/test_permissions.py",
    "bus/test_security.py::test_tls",
    "store/test_jetstream_store.py",
]

OPTIONS = ["-p", "no:cacheprovider", "-m", "", "-n", "2"]  # everything of them


def oldest() -> str:
    """The version, as setup.cfg has it."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    found = re.search(r"nats-py>=([\d.]+)", config["options"]["install_requires"])
    assert found
    return found[1]


@pytest.mark.slow
@pytest.mark.timeout(400 * UNIT)
@pytest.mark.index
def test_with_the_oldest_nats_py(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path)]
    subprocess.run([*pip, f"nats-py=={oldest()}"], check=True, timeout=60 * UNIT)
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "AETHER_SYNC_UVLOOP": "0"}
    where = [sys.executable, "-c", "import nats; print(nats.__file__)"]
    assert subprocess.check_output(where, env=env, text=True).startswith(str(tmp_path))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-m",
            "",
            "-n",
            "2",
            *(f"tests/{test}" for test in TESTS),
        ],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300 * UNIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
