"""Each bridge says which extra is to be installed, if the package that it is to is not there."""

import subprocess
import sys

BRIDGES = {
    "celery": "celery",
    "django": "django",
    "eventsourcing": "eventsourcing",
    "flask": "flask",
    "prometheus": "prometheus_client",
    "sqlalchemy": "sqlalchemy",
}


PROGRAM = f"""
import importlib, sys

bridges = {BRIDGES!r}
sys.modules.update(dict.fromkeys(bridges.values()))
for bridge in bridges:
    try:
        importlib.import_module("aether_sync.contrib." + bridge)
        print("it is imported")
    except Exception as error:
        print(type(error).__name__ + ": " + str(error))
"""


def test_what_is_missing_is_named() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    for bridge, line in zip(BRIDGES, done.stdout.splitlines(), strict=True):
        assert line.startswith(f"ModuleNotFoundError: aether_sync.contrib.{bridge} needs ")
        assert line.endswith(f": install the extra {bridge!r} of aether-sync")
