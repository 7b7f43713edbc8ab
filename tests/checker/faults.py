"""What is done to servers, links and processes, one after the other, with pauses."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from random import Random
from time import monotonic, sleep
from typing import Literal

from aether_sync import JetStreamEventStore, NATSServer

from ..programs.checked import AWAY
from ..support.proxy import Proxy
from ..support.stores import ask
from .history import Fault
from .run import STREAM, Run


def leader(run: Run, admin: JetStreamEventStore) -> NATSServer | None:
    """The leader of the stream, if it is known."""
    with suppress(*AWAY):
        info = ask(admin, f"STREAM.INFO.{STREAM}", timeout=1.0)
        name = info.get("cluster", {}).get("leader")
        return next((server for server in run.servers.all if server.name == name), None)
    return None


def victim(run: Run, admin: JetStreamEventStore, random: Random) -> NATSServer:
    """The leader, every second time."""
    found = leader(run, admin) if random.random() < 0.5 else None
    return found or random.choice(run.servers.all)


def victims(run: Run, admin: JetStreamEventStore, random: Random) -> list[NATSServer]:
    """One, in most cases; or most, or all."""
    first = victim(run, admin, random)
    others = [server for server in run.servers.all if server is not first]
    return [first, *random.sample(others, min(len(others), random.choice((0, 0, 0, 0, 1, 2))))]


def names(servers: Sequence[NATSServer]) -> str:
    return ", ".join(server.name for server in servers)


def stop(
    hurt: Callable[[NATSServer], None], heal: Callable[[NATSServer], object], what: str
) -> Callable[[Run, JetStreamEventStore, Random], Iterator[str]]:
    """Make the fault of servers that do nothing for a while."""

    def fault(run: Run, admin: JetStreamEventStore, random: Random) -> Iterator[str]:
        servers = victims(run, admin, random)
        for server in servers:
            hurt(server)
        yield f"{names(servers)} {what}"
        for server in servers:
            heal(server)

    return fault


def stepdown(run: Run, admin: JetStreamEventStore, random: Random) -> Iterator[str]:
    with suppress(*AWAY):
        ask(admin, f"STREAM.LEADER.STEPDOWN.{STREAM}", timeout=1.0)
        yield "the leader steps down"


def part(run: Run, admin: JetStreamEventStore, random: Random) -> Iterator[str]:
    """Part a server from the others, from who is no server, or from both."""
    assert run.namespaces is not None
    server = victim(run, admin, random)
    number = run.servers.all.index(server) + 1
    others = [other for other in range(1, len(run.servers.all) + 1) if other != number]
    who = random.choice((others, others, others[:1], [0], [0, *others]))
    way: Literal["both", "out", "in"] = random.choice(("both", "both", "out", "in"))
    run.namespaces.part(number, who, way)
    yield f"{server.name} is parted from {['clients' if not one else f's{one}' for one in who]}, {way} ways"
    run.namespaces.heal()


def cut(run: Run, admin: JetStreamEventStore, random: Random) -> Iterator[str]:
    """Hurt a node's links to all servers, or to one."""
    node = random.choice(run.nodes)
    links = random.choice((node.links, [random.choice(node.links)]))
    how = random.choice((Proxy.drop, Proxy.cut, Proxy.stall, Proxy.mute))
    for link in links:
        how(link)
    yield f"{len(links)} links of {node.name}: {how.__name__}"
    for link in links:
        link.restore()


def worker(run: Run, admin: JetStreamEventStore, random: Random) -> Iterator[str]:
    name = random.choice(sorted(run.replace))
    run.replace[name]()
    yield f"the worker of {name!r} is killed"


FAULTS: dict[str, Callable[[Run, JetStreamEventStore, Random], Iterator[str]]] = {
    "kill": stop(NATSServer.kill, NATSServer.start, "killed"),
    "pause": stop(NATSServer.pause, NATSServer.resume, "frozen"),
    "stepdown": stepdown,
    "partition": part,
    "cut": cut,
    "worker": worker,
}

#: Those of the servers come one after the other, so that most are there; the others meanwhile.
OF_SERVERS = ("kill", "pause", "stepdown", "partition")


def kinds(chosen: Sequence[str]) -> list[list[str]]:
    """Return which faults come one after the other."""
    return [[one for one in chosen if (one in OF_SERVERS) is wanted] for wanted in (True, False)]


def break_things(run: Run, admin: JetStreamEventStore, chosen: Sequence[str]) -> None:
    """Do one after the other of some faults, with pauses."""
    random = run.random(f"faults {chosen}")
    while chosen and not run.is_over():
        sleep(random.uniform(0.2, 0.2 + run.longest / 3))
        name = random.choice(chosen)
        takes = random.uniform(0, run.longest if random.random() < 0.5 else run.longest / 5)
        begin = monotonic()
        for what in FAULTS[name](run, admin, random):
            if name not in ("stepdown", "worker"):
                sleep(takes)
            run.history.faults.append(Fault(begin=begin, end=monotonic(), kind=name, what=what))
