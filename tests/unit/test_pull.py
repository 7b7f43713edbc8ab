"""What the reply subjects of many messages in a row say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aether_sync.stores._jetstream.pull import consumer_of, moment_of, place_of, sequences_of

FORMS = [
    b"$JS.ACK.s.%b.%d.%d.%d.%d.%d",
    b"$JS.ACK.hub.XYZ.s.%b.%d.%d.%d.%d.%d",
    b"$JS.ACK._.XYZ.s.%b.%d.%d.%d.%d.%d.t7",
]
MOMENT = 1_795_904_257_250_316_245

forms = st.sampled_from(FORMS)
starts = st.sampled_from([0, 5, 8, 95, 998, 10**6]) | st.integers(0, 2**60)


def reply(form: bytes, sequence: int, number: int, attempt: int = 1, consumer: bytes = b"c-1") -> bytes:
    return form % (consumer, attempt, sequence, number, MOMENT + sequence, number % 13)


@given(forms, starts, starts, st.lists(st.integers(1, 3), min_size=1, max_size=20))
def test_several_are_read_as_each_is(form: bytes, before: int, number: int, steps: list[int]) -> None:
    replies = []
    for place, step in enumerate(steps, number + 1):
        before += step
        replies.append(reply(form, before, place))
    found = sequences_of(replies, b"c-1", number)
    each = [place_of(one) for one in replies]
    have_one_length = len({(len(str(one.sequence)), len(str(one.number))) for one in each}) == 1
    assert found == ([one.sequence for one in each] if have_one_length else None)
    assert [one.number for one in each] == list(range(number + 1, number + 1 + len(steps)))
    assert consumer_of(replies[-1]) == b"c-1"
    assert moment_of(replies[-1]) == MOMENT + before


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("at", [0, 1, 4])
def test_what_does_not_belong_there_is_noticed(form: bytes, at: int) -> None:
    right = [reply(form, 40 + place, 20 + place) for place in range(1, 6)]
    assert sequences_of(right, b"c-1", 20) == [41, 42, 43, 44, 45]
    sequence, number = 41 + at, 21 + at
    wrong = [
        reply(form, sequence, number, attempt=2),
        reply(form, sequence, number, consumer=b"c-2"),
        reply(form, sequence, number, consumer=b"c-11"),
        reply(form, sequence, number + 1),
        reply(form, sequence, number - 1),
        reply(form, sequence, 3),
        reply(form, 1_000, number),
        b"$JS.ACK.s.c-1.1.x.%d.5.5" % number,
        b"$JS.ACK.s.c-1.1.+1.%d.5.5" % number,
        b"$JS.ACK.s.c-1.1.01.%d.5.5" % number,
        b"$JS.ACK",
        b"",
    ]
    for one in wrong:
        replies = [*right[:at], one, *right[at + 1 :]]
        assert sequences_of(replies, b"c-1", 20) is None, one
    assert sequences_of(right, b"c-1", 19) is None
    assert sequences_of(right[1:], b"c-1", 20) is None
