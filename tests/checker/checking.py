"""A run from its beginning to its judgement."""

import base64
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from time import monotonic, sleep
from typing import TypeVar

from aether_sync import Event, JetStreamEventStore, StoredEvent, UnknownOutcomeError, flush_logs

from ..programs.checked import AWAY, is_explained
from ..support.common import eventually
from ..support.stores import ask
from .clients import Client, kept_of
from .faults import break_things, kinds
from .history import Complaint, History, Record, Save
from .networks import Namespaces, Servers
from .readers import ALONE, CONSUMERS, FOLLOWERS, Worker, follow, working_alone
from .rules import judge
from .run import END, SETTLE, STREAM, Node, Run, record_of

T = TypeVar("T")

NODES = 3
CLIENTS = 2  # of a node


def check(
    seconds: float, servers: int, faults: Sequence[str], seed: int, longest: float
) -> tuple[History, list[Complaint]]:
    """Run for so many seconds; returns what was recorded, and what is wrong with it.

    Args:
        seconds: Of clients and faults, without beginning and end.
        servers: How many; the stream is on all.
        faults: Names of :data:`FAULTS`.
        seed: Of what is random.
        longest: Seconds that a fault takes at most.
    """
    with ExitStack() as stack, _logged() as logged:
        namespaces = Namespaces(servers) if "partition" in faults else None
        run = Run(seed, seconds, stack.enter_context(Servers(servers, namespaces)), namespaces, faults, longest)
        run.history.is_current = servers == 1
        run.history.followers = tuple(FOLLOWERS)
        run.history.consumers = {ALONE: ""} | {name: event_type for name, (_, event_type) in CONSUMERS.items()}
        admin = stack.enter_context(JetStreamEventStore(run.urls, STREAM, replicas=servers, ping_interval=1.0))
        _patiently(partial(admin.start, timeout=5.0))
        for number in range(NODES):
            run.nodes.append(Node(number, run.servers, servers))
            stack.callback(run.nodes[-1].close)
        _go(run, admin)
        if not run.errors:
            _look(run, admin)
        stack.close()
        flush_logs()
    run.history.logged = logged
    raised = [Complaint("raised", error) for error in run.errors]
    return run.history, raised or judge(run.history)


@contextmanager
def _logged() -> Iterator[list[str]]:
    """Note what this library logs that no fault explains."""
    said: list[str] = []
    handler = logging.Handler(logging.INFO)
    handler.addFilter(lambda record: not is_explained(record))
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("aether_sync").addHandler(handler)
    try:
        yield said
    finally:
        logging.getLogger("aether_sync").removeHandler(handler)


def _patiently(call: Callable[[], T]) -> T:
    """Call, and again while servers are away."""
    end = monotonic() + SETTLE
    while True:
        try:
            return call()
        except AWAY:
            if monotonic() > end:
                raise
            sleep(0.1)


def _go(run: Run, admin: JetStreamEventStore) -> None:
    """Have everybody work until the time is over, heal all, and have all come to the end."""
    with working_alone(run, run.nodes[0]), ExitStack() as stack:
        for name in CONSUMERS:
            worker = Worker(run, name)
            stack.callback(worker.close)
            run.replace[name] = worker.replace
        run.begun = monotonic()
        work = [Client(run, node, f"{node.name}{number}").work for node in run.nodes for number in range(CLIENTS)]
        clients = [run.thread(one) for one in work]
        followers = [run.thread(partial(follow, run, *pair)) for pair in zip(run.nodes, FOLLOWERS, strict=True)]
        run.join([run.thread(partial(break_things, run, admin, names)) for names in kinds(run.faults)], "the faults")
        run.join(clients, "a client")
        end = _save_the_end(run, admin)
        run.join(followers, "a follower")
        for consumer in map(admin.consumer, run.history.consumers):
            if not run.errors:
                # Every worker so far may have been killed before it had made its consumer.
                eventually(partial(_patiently, consumer.state), f"{consumer}")
                _patiently(partial(consumer.wait_for, end, timeout=10.0))


def _save_the_end(run: Run, admin: JetStreamEventStore) -> int:
    """Save an event that everybody wants; returns its sequence."""
    event = Event(event_type="Moved", actor_id="plain-end", version=1, id=END, data={})
    begin = monotonic()
    (stored,) = _patiently(partial(_until_known, admin, event))
    save = Save(
        client="admin", node="admin", begin=begin, end=monotonic(), kind="save_events", ids=(END,),
        outcome="stored", stored=(record_of(stored),),
    )  # fmt: skip
    run.history.saves.append(save)
    return stored.sequence


def _until_known(store: JetStreamEventStore, event: Event) -> list[StoredEvent]:
    while True:
        with suppress(UnknownOutcomeError):
            return store.save_events([event])


def _look(run: Run, admin: JetStreamEventStore) -> None:
    """Note what is stored, by the server's own word."""
    run.history.content = [_record(admin, sequence) for sequence in range(1, admin.last_sequence() + 1)]
    for actor in {one.actor for one in run.history.content}:
        snapshot = admin.get_latest_snapshot(actor)
        if snapshot is not None:
            run.history.snapshots[actor] = kept_of(snapshot)


def _record(admin: JetStreamEventStore, sequence: int) -> Record:
    answer = ask(admin, f"STREAM.MSG.GET.{STREAM}", {"seq": sequence})
    message = answer["message"]
    event = json.loads(base64.b64decode(message["data"]))
    headers = base64.b64decode(message["hdrs"])
    shared = re.search(rb"\r\nAether-Save: (\d+)/(\d+)\r\n", headers)  # the saves of several threads are one batch
    ends_batch = b"Nats-Batch-Id" not in headers or b"Nats-Batch-Commit" in headers
    if shared is not None:
        ends_batch = shared[1] == shared[2]
    ids = sys.intern(event["id"]), sys.intern(event["actorId"])
    return Record(message["seq"], *ids, event["version"], event["eventType"], ends_batch)
