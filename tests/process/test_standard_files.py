"""A daemon that has closed its standard files: none of ours gets the number of one."""

import subprocess
import sys
from pathlib import Path

import pytest

from aether_sync import NATSServer

from ..support.common import PATIENCE, first_of
from ..support.shell import environment

PROGRAM = """
import os
import sys
from pathlib import Path

from aether_sync import ANY_VERSION, Event, JetStreamEventStore, NATSEventBus

url, prefix, result, when, *closed = sys.argv[1:]


def close():
    for number in map(int, closed):
        os.close(number)


if when == "before":
    close()
event = Event(event_type="Happened", actor_id="thing-1")
with NATSEventBus(url, prefix=prefix) as bus, bus.subscribe("n") as events:
    if when == "meanwhile":
        close()
    with NATSEventBus(url, prefix=prefix) as other, JetStreamEventStore(url, stream=prefix) as store:
        store.append("thing-1", event, expected_version=ANY_VERSION)
        for number in map(int, closed):
            os.write(number, b"a library has printed this\\n")
        other.publish("n", event)
        other.flush()
        assert events.get(timeout=20).id == event.id
Path(result).write_text("done")
"""


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("uses_uvloop", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("closed", first_of(["012", "0", "1", "2"]))
def test_nothing_breaks(
    closed: str, uses_uvloop: bool, when: str, server: NATSServer, prefix: str, tmp_path: Path
) -> None:
    result = tmp_path / "result"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, server.url, prefix, str(result), when, *closed],
        env=environment(AETHER_SYNC_UVLOOP=str(int(uses_uvloop))),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE * 2,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert result.read_text() == "done"
