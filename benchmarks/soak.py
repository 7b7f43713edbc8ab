"""An hour of traffic in minutes, through a server that fails now and then: ``python -m benchmarks.soak``.

Two nodes, each a process, publish from several threads, in rounds, over a link that can be hurt. In every second round
the server is restarted, killed or paused while they do, or the link is slow, or flaps. Each node reads what it
published itself from a second bus on the connection it publishes by (*near*), all that both nodes publish from a bus
with a connection of its own (*far*, by two patterns that overlap), and the same once more into a queue that is too
small and that nobody reads (*small*). At the end of each round all is quiet, and the counts are taken:

- near has every event but the uncertain ones: what a server confirmed has come back on the same connection before;
- far has every event of a round in which its connection does not break (what is published before it is connected again
  is not for it); a slow link breaks none;
- none has an event twice, or out of order but for uncertain ones; what was offered to small was dropped or is pending;
- memory, threads and open files of all processes are the same from the end of the warm-up to the end.

The exit status is 1 if any of it does not hold.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from statistics import fmean, linear_regression
from time import monotonic, sleep
from typing import Any

from aether_sync import (
    Connection,
    DeadlineExceededError,
    DeliveryUncertainError,
    Event,
    NATSEventBus,
    NATSServer,
    Subscription,
)
from tests.support.proxy import Proxy

NODES = 2
PUBLISHERS = 2  # threads of a node
BATCH = 500
BACKLOG = 20_000  # events that a node may be behind before it publishes more slowly: memory is to be compared
PATIENCE = 120.0  # seconds
PING_INTERVAL = 1.0  # so a frozen server is left after two
SLOW = 300_000  # bytes a second, each way: a hundredth of what is published
WARM_UP = 0.3  # of the rounds: each fault has come once
FLAT = (
    0.1  # of a process's memory: what it may grow by from the end of the warm-up to the end (its queues fill unevenly)
)

Report = dict[str, Any]
Fault = Callable[[NATSServer, Proxy], None]


# -- a node


@dataclass
class Reader:
    """A thread that reads a subscription, and sees to it that each publisher's events come once and in order.

    An uncertain event may come late: a server that was paused may find it on a connection that its node has left long
    ago, when the node's new connection has brought others.
    """

    subscription: Subscription
    count: int = 0
    twice: int = 0
    late: int = 0
    last: dict[str, int] = field(default_factory=dict)  # by publisher
    gaps: dict[str, list[range]] = field(default_factory=dict)  # what it has not seen of those before

    def run(self) -> None:
        for event in self.subscription:
            expected = self.last.get(event.actor_id, 0) + 1
            if event.version < expected:
                self._find_late(self.gaps.get(event.actor_id, []), event.version)
            else:
                if event.version > expected:
                    self.gaps.setdefault(event.actor_id, []).append(range(expected, event.version))
                self.last[event.actor_id] = event.version
            self.count += 1

    def _find_late(self, gaps: list[range], version: int) -> None:
        for n, gap in enumerate(gaps):
            if version in gap:
                gaps[n : n + 1] = [part for part in (range(gap.start, version), range(version + 1, gap.stop)) if part]
                self.late += 1
                return
        self.twice += 1


class Node:
    """One process: publishes what it is told to, reads, and reports."""

    def __init__(self, number: int, url: str) -> None:
        self.number = number
        self.published = [0] * PUBLISHERS
        self.uncertain = 0
        options = {"ping_interval": PING_INTERVAL, "connect_timeout": PATIENCE}
        self._connection = Connection(url, **options)  # type: ignore[arg-type]
        self.publisher = NATSEventBus(self._connection, prefix="soak", publish_timeout=PATIENCE)
        self.near_bus = NATSEventBus(self._connection, prefix="soak")
        self.far_bus = NATSEventBus(url, prefix="soak", **options)  # type: ignore[arg-type]
        self.near = Reader(self.near_bus.subscribe(f"soak.{number}.*", maxsize=2**22, max_bytes=2**40))
        self.far = Reader(self.far_bus.subscribe("soak.>", "soak.*.*", maxsize=2**22, max_bytes=2**40))
        self.small = self.far_bus.subscribe("soak.>", maxsize=1_000)
        self._readers = [threading.Thread(target=reader.run) for reader in (self.near, self.far)]
        for thread in self._readers:
            thread.start()

    def publish(self, events: int) -> None:
        """Publish from all threads, and return when nothing of it is under way."""
        threads = [
            threading.Thread(target=self._publish, args=(one, events // PUBLISHERS)) for one in range(PUBLISHERS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._flush()

    def _publish(self, thread: int, events: int) -> None:
        """Publish by single events and by batches in turn."""
        namespace, actor = f"soak.{self.number}.{thread}", f"{self.number}-{thread}"
        for start in range(0, events, BATCH):
            while self.far.subscription.stats().pending > BACKLOG:
                sleep(0.005)
            first = self.published[thread] + 1
            count = min(BATCH, events - start)
            batch = [
                Event(event_type="Soaked", actor_id=actor, version=first + n, data={"n": n, "of": "soak"})
                for n in range(count)
            ]
            if start // BATCH % 2:
                self.publisher.publish_many(namespace, batch)
            else:
                for event in batch:
                    self.publisher.publish(namespace, event)
            self.published[thread] += count

    def _flush(self) -> None:
        end = monotonic() + PATIENCE
        while True:
            try:
                self.publisher.flush(1.0)
            except DeliveryUncertainError as error:
                self.uncertain += error.uncertain
            except DeadlineExceededError:
                if monotonic() > end:
                    raise
            else:
                return

    def report(self) -> Report:
        with suppress(DeadlineExceededError):
            self.far_bus.flush(1.0)  # answered behind all that the server has for it
        metrics = self.publisher.metrics()
        small = self.small.stats()
        return {
            "published": sum(self.published),
            "accepted": metrics.published,
            "uncertain": self.uncertain,
            "uncertain_counted": metrics.uncertain,
            "unsent": metrics.outbox_events,
            "errors": metrics.publish_errors + metrics.decode_errors + self.far_bus.metrics().decode_errors,
            "reconnects": metrics.reconnects + self.far_bus.metrics().reconnects,
            "connected": self.publisher.is_connected and self.far_bus.is_connected,
            "near": self.near.count,
            "near_received": self.near_bus.metrics().received,
            "far": self.far.count,
            "pending": self.far_bus.metrics().pending - small.pending + self.near_bus.metrics().pending,
            "far_received": self.far_bus.metrics().received,
            "twice": self.near.twice + self.far.twice,
            "near_late": self.near.late,
            "late": self.near.late + self.far.late,
            "dropped": self.near.subscription.stats().dropped + self.far.subscription.stats().dropped,
            "small_offered": small.offered,
            "small_kept": small.delivered + small.pending + small.dropped,
        }

    def close(self) -> Report:
        """Close everything; what is reported then is the same."""
        reports = [bus.close() for bus in (self.publisher, self.near_bus, self.far_bus)]
        reports.append(self._connection.close())
        for thread in self._readers:
            thread.join(PATIENCE)
        return {"closed_well": all(reports)}


def serve(number: int, url: str, trace: bool) -> None:
    """Do what the lines on the standard input say, and answer each by a line."""
    logging.getLogger("aether_sync").setLevel(logging.ERROR)  # the faults are the driver's own
    node = Node(number, url)
    before: tracemalloc.Snapshot | None = None
    for line in sys.stdin:
        command = json.loads(line)
        answer: Report = {}
        if command["do"] == "publish":
            node.publish(command["events"])
        elif command["do"] == "report":
            answer = node.report()
        elif command["do"] == "begin" and trace:
            tracemalloc.start()
            before = tracemalloc.take_snapshot()
        elif command["do"] == "grown" and before is not None:
            answer = {"grown": _growth(before)}
        elif command["do"] == "close":
            answer = node.close()
        print(json.dumps(answer), flush=True)


def _growth(before: tracemalloc.Snapshot) -> list[str]:
    ignored = (tracemalloc.Filter(False, tracemalloc.__file__),)
    after = tracemalloc.take_snapshot().filter_traces(ignored)
    return [str(one) for one in after.compare_to(before.filter_traces(ignored), "lineno")[:10]]


# -- the faults


def _restart(server: NATSServer, _: Proxy) -> None:
    server.restart()


def _kill(server: NATSServer, _: Proxy) -> None:
    server.kill()
    sleep(0.5)
    server.start()


def _pause_shortly(server: NATSServer, _: Proxy) -> None:
    """Shorter than a node waits: nothing is lost."""
    server.pause()
    sleep(PING_INTERVAL / 2)
    server.resume()


def _pause(server: NATSServer, _: Proxy) -> None:
    """Longer than a node waits."""
    server.pause()
    sleep(PING_INTERVAL * 3)
    server.resume()


def _slow(_: NATSServer, link: Proxy) -> None:
    """Megabytes wait for seconds, longer than a node waits for an answer: nothing is lost."""
    link.slow_down(bytes_per_second=SLOW)
    sleep(PING_INTERVAL * 4)
    link.restore()


def _flap(_: NATSServer, link: Proxy) -> None:
    """Break the link as soon as it is there again."""
    for _turn in range(6):
        link.drop()
        sleep(0.4)


FAULTS: Sequence[Fault] = (_restart, _kill, _pause_shortly, _pause, _slow, _flap)


# -- the driver


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process takes at one moment."""

    memory: int  # bytes, resident
    threads: int
    files: int

    @classmethod
    def of(cls, pid: int) -> "Usage":
        with open(f"/proc/{pid}/status") as status:
            fields = dict(line.split(":\t", 1) for line in status if ":\t" in line)
        memory = int(fields["VmRSS"].split()[0]) * 1024
        return cls(memory, int(fields["Threads"]), len(os.listdir(f"/proc/{pid}/fd")))


class Worker:
    """A node's process, seen from the driver."""

    def __init__(self, number: int, url: str, trace: bool) -> None:
        command = [sys.executable, "-m", "benchmarks.soak", "--node", str(number), "--url", url]
        self.process = subprocess.Popen(
            command + ["--tracemalloc"] * trace, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.usage: list[Usage] = []

    def tell(self, do: str, **arguments: object) -> None:
        assert self.process.stdin is not None
        print(json.dumps({"do": do, **arguments}), file=self.process.stdin, flush=True)

    def answer(self) -> Report:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a node ended, with status {self.process.wait()}")
        answer: Report = json.loads(line)
        return answer

    def ask(self, do: str) -> Report:
        self.tell(do)
        return self.answer()

    def measure(self) -> None:
        self.usage.append(Usage.of(self.process.pid))


@contextmanager
def workers(url: str, trace: bool) -> Iterator[list[Worker]]:
    with ExitStack() as stack:
        started = []
        for number in range(NODES):
            worker = Worker(number, url, trace)
            stack.enter_context(worker.process)
            stack.callback(worker.process.kill)
            started.append(worker)
        yield started


class Soak:
    """The rounds, and what was found wrong in them."""

    def __init__(
        self, server: NATSServer, link: Proxy, nodes: list[Worker], events: int, rounds: int, is_traced: bool
    ) -> None:
        self._server = server
        self._link = link
        self._is_traced = is_traced  # which takes memory itself
        self._nodes = nodes
        self._share = max(1, events // rounds // NODES)
        self._rounds = rounds
        self._missed = [0] * NODES  # by far, in rounds with a fault
        self._late = [0] * NODES
        self._started = monotonic()
        self.complaints: list[str] = []

    def run(self) -> list[Report]:
        warm = max(1, int(self._rounds * WARM_UP))
        reports = self._all("report")  # when they answer, they have subscribed
        for number in range(self._rounds):
            if number == warm:
                self._all("begin")
            fault = FAULTS[number // 2 % len(FAULTS)] if number % 2 else None
            reports = self._round(fault)
            for node in self._nodes:
                node.measure()
            self._progress(number + 1, fault, reports)
        for number, node in enumerate(self._nodes):
            self._check_flat(number, node.usage[warm:])
        for grown in self._all("grown"):
            print("\n".join(grown.get("grown", ())))
        for number, closed in enumerate(self._all("close")):
            self._expect(closed["closed_well"], f"node {number}: closing left something undone")
        return reports

    def _all(self, do: str) -> list[Report]:
        for node in self._nodes:
            node.tell(do)
        return [node.answer() for node in self._nodes]

    def _round(self, fault: Fault | None) -> list[Report]:
        for node in self._nodes:
            node.tell("publish", events=self._share)
        if fault is not None:
            sleep(0.5)
            fault(self._server, self._link)
        for node in self._nodes:
            node.answer()
        reports = self._settled(fault in (None, _slow))
        for number, report in enumerate(reports):
            self._check(number, report, sum(one["published"] for one in reports), fault)
        return reports

    def _settled(self, complete: bool) -> list[Report]:
        """Wait until the readers have what they will get: all that there is, or, after a fault, no more."""
        end = monotonic() + PATIENCE / 4
        before: list[Report] = []
        while True:
            reports = self._all("report")
            total = sum(report["published"] for report in reports)
            has_all = all(
                report["far"] + missed == total and report["near"] >= report["published"] - report["uncertain"]
                for report, missed in zip(reports, self._missed, strict=True)
            )
            connected = all(report["connected"] for report in reports)
            if (connected and (has_all or (reports == before and not complete))) or monotonic() > end:
                return reports
            before = reports
            sleep(0.5)

    def _check(self, number: int, report: Report, total: int, fault: Fault | None) -> None:
        published, uncertain = report["published"], report["uncertain"]
        if fault not in (None, _slow):
            self._missed[number] = total - report["far"]
        for holds, what in (
            (report["accepted"] == published, "accepted is not what was published"),
            (report["unsent"] == 0, "something is unsent after a flush"),
            (report["uncertain_counted"] == uncertain, "flush() told another count of uncertain events than metrics()"),
            (published - uncertain <= report["near"] <= published, "confirmed events did not come"),
            (report["near"] == report["near_received"], "received and taken differ (near)"),
            (report["far"] <= report["far_received"], "more was taken than received (far)"),
            (
                report["far"] + self._missed[number] == total,
                "events of a round did not come, or came later",
            ),
            (report["far"] <= total, "more events came than were published"),
            (report["twice"] == 0, "events came twice"),
            (report["near_late"] <= uncertain, "events came out of order that are not uncertain"),
            (report["late"] == self._late[number] or fault is _pause, "events came out of order"),
            (report["dropped"] == 0, "events were dropped"),
            (report["small_offered"] == report["small_kept"] == report["far"], "the small queue's counts are off"),
            (report["errors"] == 0, "there were errors"),
        ):
            self._expect(holds, f"node {number}: {what}: {report}")
        self._late[number] = report["late"]

    def _check_flat(self, number: int, usage: list[Usage]) -> None:
        if len(usage) < 4:
            return
        memory = [one.memory for one in usage]
        growth = linear_regression(range(len(memory)), memory).slope * (len(memory) - 1)
        print(
            f"node {number}: memory grew by {growth / 2**20:+.1f} MiB of {fmean(memory) / 2**20:.0f} MiB after warm-up"
        )
        self._expect(self._is_traced or growth < FLAT * fmean(memory), f"node {number}: memory is not flat: {memory}")
        for name in ("threads", "files"):
            counts = [getattr(one, name) for one in usage]
            self._expect(len(set(counts)) == 1, f"node {number}: the number of {name} is not flat: {counts}")

    def _expect(self, holds: bool, what: str) -> None:
        if not holds:
            self.complaints.append(what)
            print(what, file=sys.stderr, flush=True)

    def _progress(self, number: int, fault: Fault | None, reports: list[Report]) -> None:
        name = "" if fault is None else fault.__name__.strip("_").replace("_", " ")
        used = "  ".join(
            f"{node.usage[-1].memory / 2**20:4.0f} MiB {node.usage[-1].threads} threads {node.usage[-1].files} files"
            for node in self._nodes
        )
        published, uncertain, reconnects = (
            sum(report[key] for report in reports) for key in ("published", "uncertain", "reconnects")
        )
        print(
            f"{monotonic() - self._started:6.0f} s  round {number:3}  {published:11,} published"
            f"  {uncertain:7,} uncertain  {sum(self._missed):8,} missed by far  {reconnects:3} reconnects"
            f"  {used}  {name}",
            flush=True,
        )


def main() -> None:
    """Run what the command line asks for."""
    options = _parse()
    if options.node is not None:
        serve(options.node, options.url, options.tracemalloc)
        return
    started = monotonic()
    with (
        NATSServer(jetstream=False, config="max_pending: 1GB") as server,
        Proxy(server.port) as link,
        workers(link.url, options.tracemalloc) as nodes,
    ):
        soak = Soak(server, link, nodes, options.events, options.rounds, options.tracemalloc)
        reports = soak.run()
    took = monotonic() - started
    published, uncertain, near, far, late, reconnects = (
        sum(report[key] for report in reports)
        for key in ("published", "uncertain", "near", "far", "late", "reconnects")
    )
    print(f"{published:,} events published, {near + far:,} received, in {took:.0f} s; {reconnects} reconnects")
    print(f"{uncertain:,} uncertain, of which {published - near:,} were lost; {late:,} received late")
    print("the counts do not add up, or something grew" if soak.complaints else "the counts add up, and nothing grew")
    sys.exit(bool(soak.complaints))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description="An hour of traffic in minutes.")
    parser.add_argument("--events", type=int, default=10_000_000, help="events to publish (%(default)s)")
    parser.add_argument("--rounds", type=int, default=40, help="in so many rounds (%(default)s)")
    parser.add_argument("--tracemalloc", action="store_true", help="say where memory grew after the warm-up; slow")
    parser.add_argument("--node", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
