"""What an inbox makes of messages, in whichever runs they come. Through a server: ``suites.py``."""

import asyncio
from itertools import count

import pytest

from aether_sync import Event
from aether_sync._bus.counting import Counters
from aether_sync._bus.incoming import EventInterest, Incoming
from aether_sync._bus.routing import Target, make_target
from aether_sync._codec.encoding import encode_event
from aether_sync._codec.envelope import EnvelopeWriter
from aether_sync._nats.fast_reader import FastReader
from aether_sync._nats.interest import Mailbox
from aether_sync._runtime.listeners import Listeners
from aether_sync._runtime.reporter import Reporter

OWN, OTHER = EnvelopeWriter("own"), EnvelopeWriter("two")
numbers = count(1)


def payload(writer: EnvelopeWriter = OTHER, namespace: str = "orders.eu") -> bytes:
    event = Event(event_type="T", actor_id="a-1", version=next(numbers))
    return writer.write(namespace, encode_event(event))


class Node:
    """Two interests of a node that overlap, a target behind each, and a queue group."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.reporter = Reporter()
        self.inbox = Incoming("own", self.counters, lambda _: None, Listeners(self.reporter))
        self.exact, self.wide = self.interest("orders.eu"), self.interest("orders.*")
        self.group = self.interest("orders.eu", "workers")

    def interest(self, pattern: str, group: str | None = None) -> EventInterest:
        interest = EventInterest(self.inbox, f"t.events.{pattern}", pattern, group)
        interest.add(make_target((pattern,), None, 100, 10_000, "drop_newest", group, lambda _: None))
        return interest

    def take(self, *runs: tuple[EventInterest, list[bytes]]) -> None:
        self.inbox.arrived += [(interest, "t.events.orders.eu", list(payloads)) for interest, payloads in runs]
        self.inbox.deliver(self.reporter)

    def got(self, interest: EventInterest) -> list[int]:
        (target,) = interest._members
        return versions(target)

    def counts(self) -> tuple[int, int]:
        counts, _ = self.counters.snapshot()
        return counts["received"], counts["decode_errors"]


def versions(target: Target) -> list[int]:
    return [event.version for event in list(target.queue._events)]


@pytest.fixture
def node():
    node = Node()
    yield node
    node.reporter.close(1)


def sent(*payloads: bytes) -> list[int]:
    return [int(one.partition(b'"version":')[2].partition(b",")[0]) for one in payloads]


def test_a_run_arrives_in_order(node):
    first, second, third = payload(), payload(), payload()
    node.take((node.exact, [first, second]), (node.exact, [third]))
    assert node.got(node.exact) == sent(first, second, third)
    assert node.counts() == (3, 0)


def test_a_copy_through_another_interest_is_the_same_event(node):
    one = payload()
    node.take((node.exact, [one]), (node.wide, [one]))
    assert node.got(node.exact) == node.got(node.wide) == sent(one)
    assert node.exact._members.keys() != node.wide._members.keys()
    (exact,), (wide,) = node.exact._members, node.wide._members
    assert exact.queue.pop() is wide.queue.pop()
    assert node.counts() == (1, 0)


def test_a_copy_is_known_in_the_next_turn_and_at_the_head_of_a_run(node):
    first, second, third = payload(), payload(), payload()
    node.take((node.exact, [first, second]))
    node.take((node.wide, [second, third]))
    assert node.got(node.wide) == sent(second, third)
    assert node.counts() == (3, 0)


def test_the_same_event_published_again_comes_again(node):
    one = payload()
    node.take((node.exact, [one, one]))
    node.take((node.exact, [one]))
    assert node.got(node.exact) == sent(one) * 3
    assert node.counts() == (3, 0)


def test_what_is_no_event_is_skipped_wherever_it_stands_in_a_run(node):
    first, second = payload(), payload()
    node.take((node.exact, [b"x", first, b"y", second, b"z"]), (node.wide, [b"z"]))
    assert node.got(node.exact) == sent(first, second)
    assert node.got(node.wide) == []
    assert node.counts() == (2, 4)


def test_own_events_are_skipped_but_by_a_group(node):
    own, other = payload(OWN), payload()
    spaced = payload(OWN).replace(b'{"node_id"', b'{ "node_id"')
    node.take((node.exact, [own, spaced, other, own]), (node.group, [own, spaced, other]))
    assert node.got(node.exact) == sent(other)
    assert node.got(node.group) == sent(own, spaced, other)


def test_own_events_alone_deliver_nothing(node):
    node.take((node.exact, [payload(OWN)]))
    assert node.got(node.exact) == []
    assert node.counts() == (0, 0)


def test_after_a_move_what_came_before_is_skipped_but_by_a_group(node):
    old, new = payload(), payload()
    node.take((node.exact, [old]), (node.wide, [old]), (node.group, [old]))
    node.inbox.move()
    node.take((node.wide, [old]), (node.exact, [old, new]), (node.wide, [new]), (node.group, [old]))
    assert node.got(node.exact) == node.got(node.wide) == sent(old, new)
    assert node.got(node.group) == sent(old, old)


class Stock(asyncio.Protocol):
    """Where all goes that is for no interest."""

    def __init__(self, rest: list[bytes]) -> None:
        self.data_received = rest.append


def test_a_bus_that_fails_to_deliver_keeps_nothing_from_others_on_its_connection(node, caplog):
    """Of two buses on one connection: a mistake of ours, or no memory, while one of them delivers."""
    other = Node()
    broken, whole = payload(), payload()

    def fail(subject: str) -> None:
        raise MemoryError

    node.exact.route = fail
    interests = {1: node.exact, 2: other.exact}
    rest = []
    stock = Stock(rest)
    reader = FastReader(stock, interests, lambda inbox: inbox.deliver(node.reporter), rest.append)
    frames = [(1, broken), (2, whole)]
    lines = [b"MSG t.events.orders.eu %d %d\r\n%b\r\n" % (sid, len(one), one) for sid, one in frames]
    reader.take(b"".join(lines) + b"PONG\r\n")
    reader.take(lines[0])
    assert other.got(other.exact) == sent(whole)
    assert rest == [b"PONG\r\n"]
    assert node.counts() == (0, 2)
    node.reporter.close(1)
    other.reporter.close(1)
    assert caplog.text.count("internal error") == 1, "it is logged once"


def test_a_mailbox_that_fails_keeps_nothing_from_the_others(node, caplog):
    def fail(messages: object) -> None:
        raise MemoryError

    mailbox = Mailbox("a", fail)
    rest = []
    stock = Stock(rest)
    reader = FastReader(stock, {1: mailbox, 2: node.exact}, lambda inbox: inbox.deliver(node.reporter), rest.append)
    one = payload()
    reader.take(b"MSG a 1 1\r\nx\r\nMSG t.events.orders.eu 2 %d\r\n%b\r\nPONG\r\n" % (len(one), one))
    assert node.got(node.exact) == sent(one)
    assert rest == [b"PONG\r\n"]
    node.reporter.close(1)
    assert "internal error" in caplog.text
