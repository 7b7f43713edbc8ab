"""What has come for a consumption: each actor's events in order, however often and wherever the link broke."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aether_sync._nats.interest import Message
from aether_sync.stores.consumers import arrivals as _arrivals
from aether_sync.stores.consumers.arrivals import Arrivals

from ..support.common import UNIT, eventually

FOR_LONG = 1_000.0  # seconds of an ack wait


class Server:
    """A consumer, and its stream: batches of events of a few actors."""

    def __init__(self, batches: list[list[int]]) -> None:
        self.lost: list[Message] = []
        self.sent = 0
        self.number = 0
        self._messages: list[tuple[bytes, bytes]] = []
        last: dict[int, int] = {}
        for batch in batches:
            first: set[int] = set()
            for place, actor in enumerate(batch, 1):
                headers = b"NATS/1.0"
                if actor not in first:
                    headers += b"\r\nNats-Expected-Last-Subject-Sequence: %d" % last.get(actor, 0)
                if len(batch) > 1:
                    headers += b"\r\nNats-Batch-Sequence: %d" % place
                first.add(actor)
                self._messages.append((b"s.events.a.%d" % actor, headers + b"\r\n\r\n"))
                last[actor] = len(self._messages)

    @property
    def left(self) -> int:
        return len(self._messages) - self.sent

    def send(self, count: int, attempt: int = 1) -> list[Message]:
        sequences = range(self.sent + 1, min(self.sent + count, len(self._messages)) + 1)
        self.sent += len(sequences)
        return [self._message(sequence, attempt) for sequence in sequences]

    def send_again(self) -> list[Message]:
        lost, self.lost = sorted(self.lost, key=sequence_of), []
        return [self._message(sequence_of(one), 2) for one in lost]

    def _message(self, sequence: int, attempt: int) -> Message:
        self.number += 1
        subject, headers = self._messages[sequence - 1]
        return subject, b"$JS.ACK.s.c.%d.%d.%d.0.0" % (attempt, sequence, self.number), headers, b"{}"

    def info(self) -> dict[str, object]:
        return {
            "delivered": {"consumer_seq": self.number, "stream_seq": self.sent},
            "ack_floor": {"consumer_seq": 0, "stream_seq": 0},
        }


def sequence_of(message: Message) -> int:
    return int(message[1].split(b".")[5])


def begun(server: Server, ack_wait: float = FOR_LONG) -> Arrivals:
    arrivals = Arrivals(ack_wait)
    arrivals.learn(server.info())
    arrivals.begin()
    return arrivals


def renew(arrivals: Arrivals, server: Server, keep: bool = True) -> None:
    arrivals.learn(server.info())
    arrivals.begin(keep)


def take(arrivals: Arrivals) -> list[int]:
    taken = []
    while (message := arrivals.pop()) is not None:
        taken.append(sequence_of(message))
    return taken


BATCHES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=30)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send", "lose", "lose and go on", "forget", "send again", "take"]),
        st.integers(0, 6),
    ),
    max_size=30,
)


@given(BATCHES, STEPS)
def test_each_actors_events_come_in_order(batches: list[list[int]], steps: list[tuple[str, int]]) -> None:
    server = Server(batches)
    arrivals = begun(server)
    taken: list[int] = []
    for what, count in steps:
        if what == "send":
            arrivals.take(server.send(count))
        elif what == "send again":  # before anything new
            arrivals.take(server.send_again())
        elif what == "take":
            taken += [sequence_of(one) for _ in range(count) if (one := arrivals.pop()) is not None]
        else:
            arrivals.break_off()
            server.lost += server.send(count)
            if what == "lose and go on":  # with a question from before the break
                arrivals.take(server.send(2))
            if what == "forget":
                server.lost += [*arrivals._next, *arrivals.arrived, *arrivals._late]
                missing = arrivals._missing
                server.lost += missing.waiting() if missing is not None else []
            renew(arrivals, server, keep=what != "forget")
    arrivals.take(server.send_again())
    arrivals.take(server.send(server.left))
    taken += take(arrivals)
    assert sorted(taken) == list(range(1, server.sent + 1))
    actors = [actor for batch in batches for actor in batch]
    for actor in set(actors):
        of_it = [sequence for sequence in taken if actors[sequence - 1] == actor]
        assert of_it == sorted(of_it)
    assert arrivals._missing is None or not arrivals.replies()


def test_what_does_not_come_again_is_waited_for_as_long_as_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_arrivals, "_GRACE", 0.1 * UNIT)
    server = Server([[0], [0], [1]])
    arrivals = begun(server, ack_wait=0.1 * UNIT)
    arrivals.break_off()
    server.send(1)
    renew(arrivals, server)
    arrivals.take(server.send(2))
    assert take(arrivals) == [3]
    eventually(lambda: take(arrivals) == [2])


def test_it_has_its_time_from_the_last_break_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(_arrivals, "monotonic", lambda: now[0])
    server = Server([[0], [0], [1]])
    arrivals = begun(server, ack_wait=10.0)
    now[0] = 100.0  # nobody is believed to consume beside it
    arrivals.break_off()
    server.lost = server.send(1)
    renew(arrivals, server)
    arrivals.take(server.send(2))
    assert take(arrivals) == [3]
    arrivals.break_off()
    now[0] += 60.0  # the server is away
    assert take(arrivals) == []
    renew(arrivals, server)
    now[0] += 10.0
    assert take(arrivals) == []
    arrivals.take(server.send_again())
    assert take(arrivals) == [1, 2]


def test_what_is_sent_over_the_dead_link_after_the_break_is_lost_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(_arrivals, "monotonic", lambda: now[0])
    server = Server([[0], [1], [0], [1], [0], [1]])
    arrivals = begun(server, ack_wait=10.0)
    now[0] = 100.0
    arrivals.break_off()
    renew(arrivals, server)
    server.lost = server.send(2)  # to the question that was asked before
    arrivals.take(server.send(1))
    server.lost += server.send(1)
    arrivals.take(server.send(2))
    assert take(arrivals) == []
    now[0] += 10.0
    arrivals.take(server.send_again())
    assert take(arrivals) == [1, 3, 5, 2, 4, 6]


def test_no_more_is_asked_for_while_much_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_arrivals, "_ASIDE", 5)
    server = Server([[0]] * 6)
    arrivals = begun(server)
    arrivals.break_off()
    server.lost = server.send(1)
    renew(arrivals, server)
    arrivals.take(server.send(2))
    assert take(arrivals) == []
    assert not arrivals.is_full
    arrivals.take(server.send(1))
    assert take(arrivals) == []
    assert arrivals.is_full
    assert len(arrivals.replies()) == 3
    arrivals.take(server.send_again())
    assert take(arrivals) == [1, 2, 3, 4]
    assert not arrivals.is_full


def test_one_that_says_nothing_waits_for_all() -> None:
    server = Server([[0], [1], [2]])
    arrivals = begun(server)
    arrivals.break_off()
    server.lost = server.send(1)
    renew(arrivals, server)
    subject, reply, _, data = server.send(1)[0]
    arrivals.take([(subject, reply, b"", data)])
    arrivals.take(server.send(1))
    assert take(arrivals) == [3]
    arrivals.take(server.send_again())
    assert take(arrivals) == [1, 2]


def test_nothing_is_set_aside_where_others_consume() -> None:
    server = Server([[0]] * 6)
    arrivals = begun(server)
    server.send(1)  # to another
    arrivals.take(server.send(1))
    assert take(arrivals) == [2]
    arrivals.break_off()
    server.send(2)
    renew(arrivals, server)
    arrivals.take(server.send(2))
    assert take(arrivals) == [5, 6]


def test_what_is_put_back_comes_first() -> None:
    server = Server([[0]] * 4)
    arrivals = begun(server)
    arrivals.take(server.send(4))
    messages = [one for _ in range(2) if (one := arrivals.pop()) is not None]
    arrivals.put_back(messages)
    assert take(arrivals) == [1, 2, 3, 4]
