"""Green threads: gevent's work, on one connection; what would hang is refused, with what to do.

The programs are in ``tests/programs/green.py``.
"""

import pytest

from aether_sync import NATSServer

from ..programs import green
from ..programs.run import run

pytestmark = pytest.mark.both_loops  # if uvloop may be used, it is not


@pytest.mark.concurrent
def test_gevent_that_patched_before_the_import(server: NATSServer, prefix: str) -> None:
    output = run(green.with_gevent, server.url, prefix, says=None)
    assert output == (
        "with gevent there is one connection in a process: make one Connection, and give it to all buses and stores\n"
    )


def test_gevent_that_patched_after_it_is_refused(server: NATSServer, prefix: str) -> None:
    output = run(green.patched_late, server.url, prefix, says=None)
    assert output.count("call gevent.monkey.patch_all() before any other import") == 3


def test_eventlet_is_refused(server: NATSServer, prefix: str) -> None:
    assert run(green.with_eventlet, server.url, prefix, says=None).count("eventlet is not supported") == 2
