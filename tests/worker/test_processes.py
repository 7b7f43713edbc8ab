"""Several processes with the same worker, of which some are killed, and handlers that fail at random."""

import random
import signal
import subprocess
import time
from collections import defaultdict
from pathlib import Path

import pytest

from aether_sync import Event, JetStreamEventStore, NATSServer

from ..programs import workers as programs
from ..programs.run import start
from ..support.common import PATIENCE, UNIT, eventually

pytestmark = [pytest.mark.concurrent, pytest.mark.slow]

EVENTS, ACTORS, PROCESSES, KILLS = 3_000, 30, 4, 6


def calls_in(path: Path) -> list[tuple[str, str, int, int, str]]:
    """What the processes have noted; the last line of one that was killed may be cut."""
    found = []
    for line in path.read_text().splitlines():
        pid, actor, sequence, attempt, outcome = line.split(" ")
        found.append((pid, actor, int(sequence), int(attempt), outcome))
    return found


def test_each_event_is_handled_or_a_dead_letter_and_each_actors_are_in_order(
    server: NATSServer, store: JetStreamEventStore, tmp_path: Path
) -> None:
    path = tmp_path / "calls"
    path.touch()
    events = [
        Event(event_type="Done", actor_id=f"a-{n % ACTORS}", version=n // ACTORS + 1, data={"n": n})
        for n in range(EVENTS)
    ]
    for first in range(0, EVENTS, 1_000):
        store.save_events(events[first : first + 1_000], timeout=PATIENCE)
    poisonous = {n + 1 for n in range(EVENTS) if n % 50 == 7}

    def begin() -> subprocess.Popen[str]:
        return start(programs.handles_what_it_can, server.url, store.stream, 2 * UNIT, path)

    def handled() -> set[int]:
        return {sequence for _, _, sequence, _, outcome in calls_in(path) if outcome == "done"}

    wanted = set(range(1, EVENTS + 1)) - poisonous
    processes = [begin() for _ in range(PROCESSES)]
    choice, kills = random.Random(1), 0
    try:
        while kills < KILLS and handled() != wanted:
            seen = len(calls_in(path))
            eventually(lambda seen=seen: len(calls_in(path)) > seen or handled() == wanted)  # type: ignore[misc]
            time.sleep(0.1)
            victim = processes.pop(choice.randrange(len(processes)))
            victim.kill()
            victim.communicate()
            processes.append(begin())
            kills += 1
        end = time.monotonic() + 10 * PATIENCE
        while handled() != wanted and time.monotonic() < end:
            time.sleep(0.1)
        assert handled() == wanted
        eventually(lambda: {one.sequence for one in store.consumer("c").dead_letters(limit=EVENTS)} == poisonous)
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
    assert kills > 1, "the test has killed some in the midst of their work"
    for process in processes:
        process.communicate(timeout=3 * PATIENCE)
        assert process.returncode in (0, -signal.SIGTERM), "the latter, if it had not yet begun"
    firsts: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    for pid, actor, sequence, attempt, _ in calls_in(path):
        firsts[pid, actor].setdefault(sequence, attempt)
    for one in firsts.values():
        new = [sequence for sequence, attempt in one.items() if attempt == 1]
        assert new == sorted(new), "an actor's events in order, within a process, but for those that come again"
