"""The wheel in an empty environment, with each extra that the metadata names, on each Python of this machine."""

import sys
import textwrap
from pathlib import Path

import pytest

from ..support.common import UNIT
from ..support.installs import SUPPORTED, Environment, extras, python
from .conftest import Built

pytestmark = [pytest.mark.slow, pytest.mark.index, pytest.mark.timeout(900 * UNIT)]

#: The Python that runs the tests; and, before a release, all others.
OWN_FIRST = [
    pytest.param(one, marks=() if one == f"{sys.version_info[0]}.{sys.version_info[1]}" else pytest.mark.release)
    for one in SUPPORTED
]

#: For work on the library. ``test`` is installed where the sdist tests itself; the others bring a hundred packages,
#: some of which have to be compiled: here pip only says whether they go together.
FOR_WORK = {"bench", "dev", "fuzz"}

#: Runs whatever is installed beside the library.
ALWAYS = """
    import importlib.metadata
    import importlib.util
    import pathlib

    import aether_sync

    assert "site-packages" in aether_sync.__file__
    assert importlib.metadata.version("aether-sync") == aether_sync.__version__
    for name in "py.typed", "guide/index.md", "guide/api/bus.md":
        assert (pathlib.Path(aether_sync.__file__).parent / name).exists(), name
    with aether_sync.EventBus() as bus, bus.subscribe("n") as events:
        bus.publish("n", aether_sync.Event(event_type="Installed", actor_id="wheel-1"))
        assert events.get(timeout=5).actor_id == "wheel-1"
"""

#: Imports an integration that has the name of its extra.
INTEGRATION = """
    name = "aether_sync.contrib.{extra}"
    if importlib.util.find_spec("aether_sync.contrib") and importlib.util.find_spec(name):
        assert importlib.import_module(name).__all__
"""

#: Programs that use what an extra brings.
PROGRAMS = {
    "server": """
        with aether_sync.NATSServer() as server, aether_sync.NATSEventBus(server.url) as bus:
            with bus.subscribe("n") as events, aether_sync.JetStreamEventStore(bus.connection) as store:
                event = aether_sync.Event(event_type="Installed", actor_id="wheel-1")
                bus.publish("n", event)
                assert events.get(timeout=5) == event
                store.append("wheel-1", event, expected_version=aether_sync.NO_EVENTS)
                assert store.load("wheel-1").version == 1
    """,
    "nkeys": """
        import nkeys  # nats-py finds it

        assert nkeys.from_seed(nkeys.encode_seed(bytes(32), nkeys.PREFIX_BYTE_USER)).public_key.startswith(b"U")
    """,
    "fast": """
        import uvloop

        from aether_sync._runtime.event_loop import new_loop

        loop = new_loop(True, print)
        assert isinstance(loop, uvloop.Loop)
        loop.close()
    """,
    "cli": """
        import subprocess
        import sys

        command = pathlib.Path(sys.executable).parent / "aether-sync"
        shown = subprocess.check_output([command, "guide", "api/bus"], text=True)
        assert "NATSEventBus" in shown
    """,
}


@pytest.fixture
def environment(version: str, tmp_path: Path) -> Environment:
    base = python(version)
    if base is None:
        pytest.skip(f"there is no Python {version} on this machine")
    return Environment(tmp_path / "venv", base)


@pytest.mark.parametrize("extra", ["", *sorted(set(extras()) - {"test"} - FOR_WORK)])
@pytest.mark.parametrize("version", OWN_FIRST)
def test_an_extra_in_an_empty_environment(built: Built, environment: Environment, extra: str, tmp_path: Path) -> None:
    environment.pip("install", "--quiet", f"{built.wheel}[{extra}]" if extra else built.wheel)
    environment.pip("check")
    program = [ALWAYS, INTEGRATION.format(extra=extra), PROGRAMS.get(extra, "")]
    path = tmp_path / "program.py"
    path.write_text("\n".join(map(textwrap.dedent, program)), encoding="utf-8")
    environment.run("python", "-W", "error", path, cwd=tmp_path)


@pytest.mark.release
@pytest.mark.parametrize("extra", sorted(FOR_WORK))
@pytest.mark.parametrize("version", SUPPORTED)
def test_the_packages_for_work_on_the_library_go_together(built: Built, environment: Environment, extra: str) -> None:
    environment.pip("install", "--quiet", "--dry-run", f"{built.wheel}[{extra}]")
