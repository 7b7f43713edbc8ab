"""Each bridge says which extra is to be installed, if the package that it is to is not there."""

import subprocess
import sys

import pytest

BRIDGES = {
    "celery": "celery",
    "django": "django",
    "eventsourcing": "eventsourcing",
    "flask": "flask",
    "prometheus": "prometheus_client",
    "sqlalchemy": "sqlalchemy",
}


@pytest.mark.parametrize("bridge", BRIDGES)
def test_what_is_missing_is_named(bridge: str) -> None:
    program = f"import sys; sys.modules[{BRIDGES[bridge]!r}] = None; import aether_sync.contrib.{bridge}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ModuleNotFoundError: aether_sync.contrib.{bridge} needs ")
    assert last.endswith(f": install the extra {bridge!r} of aether-sync")
