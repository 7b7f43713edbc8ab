"""What the header of a record names: compared with a simple model, and read from whatever somebody may have written."""

import random

import pytest

from aether_sync.stores._jetstream.earlier import ALSO, FIRST, HEADER, RUN, Earlier, named

END = 2**62  # after everything that is named


def headers(text: bytes) -> bytes:
    return (
        b"NATS/1.0\r\nNats-Msg-Id: x\r\n%b%b\r\n\r\n" % (HEADER, text)
        if text
        else b"NATS/1.0\r\nNats-Msg-Id: x\r\n\r\n"
    )


def model(sequences: list[int]) -> list[list[int]]:
    """What the event after those at these sequences names: as many ends of runs as the digits of its ordinal say.

    And some of the last whole run.
    """
    levels: list[list[int]] = []
    end = len(sequences)
    run = 1
    while run <= len(sequences):
        count = len(sequences) // run % RUN
        levels.append([sequences[end - 1 - back * run] for back in reversed(range(count))])
        end -= count * run
        run *= RUN
    if len(levels) > 1:
        begin = len(sequences) - len(sequences) % RUN
        levels[0] = sequences[begin - 1 - ALSO : begin - 1] + levels[0]
    return levels


def rising(count: int, seed: int = 0) -> list[int]:
    source = random.Random(seed)
    found, at = [], 0
    for _ in range(count):
        at += source.choice((1, 2, 17, 300, 10**6))
        found.append(at)
    return found


def test_what_an_event_names_is_the_digits_of_its_ordinal() -> None:
    sequences = rising(4_500)
    earlier = FIRST
    for ordinal, sequence in enumerate(sequences):
        if ordinal < 300 or ordinal % 37 == 0 or ordinal in (4_095, 4_096):
            assert named(headers(earlier.text), 0, END) == model(sequences[:ordinal])
        earlier = earlier.after(sequence)


def test_what_is_read_goes_on_as_what_was_written() -> None:
    sequences = rising(700)
    written = FIRST
    for sequence in sequences:
        read = Earlier.of(named(headers(written.text), 0, END))
        assert read == written
        written = read.after(sequence)


@pytest.mark.parametrize("before", [0, 1, 15, 16, 250, 4_095])
@pytest.mark.parametrize("size", [1, 2, 16, 40, 300])
def test_events_of_one_batch_are_named_by_their_places_in_it(before: int, size: int) -> None:
    source = random.Random(before * 1_000 + size)
    sequences = rising(before)
    earlier = FIRST
    for sequence in sequences:
        earlier = earlier.after(sequence)
    first = (sequences or [0])[-1] + 50
    places = sorted(source.sample(range(1, 1_001), size))  # others are of other actors
    for number, place in enumerate(places):
        there = [first + one - 1 for one in places[:number]]
        assert named(headers(earlier.text), first, END) == model(sequences + there)
        earlier = earlier.after_place(place)
    everything = sequences + [first + one - 1 for one in places]
    settled = earlier.settled(first)
    assert named(headers(settled.text), 0, END) == model(everything)
    assert named(headers(settled.after(10**9).text), 0, END) == model([*everything, 10**9])


def test_it_is_short() -> None:
    """About a hundred bytes, in a stream of two million events, of an actor of up to four thousand."""
    earlier, at, sizes = FIRST, 0, []
    source = random.Random(1)
    for _ in range(4_000):
        at += int(source.expovariate(1 / 500)) + 1
        earlier = earlier.after(at)
        sizes.append(len(earlier.text))
    assert sum(sizes) / len(sizes) < 100
    assert max(sizes) < 200


@pytest.mark.parametrize(
    "text",
    [
        b"A,B", b"A B", b"A;\xff", b"=", b"A+%", b";".join([b"B"] * 16), b"B" * 16, b"b" * 2_000, b"\xff", b"BA",
        b"bA+B",
    ],
)  # fmt: skip
def test_what_is_not_of_this_form_names_nothing(text: bytes) -> None:
    assert named(headers(text), 0, END) == []


@pytest.mark.parametrize("text", [b"A", b"A;B", b"H", b"I", b"B;I", b"B+D", b"f" * 30 + b"B", b";", b";;;"])
def test_only_what_is_before_a_record_is_named(text: bytes) -> None:
    """Whoever follows what records name comes to an end."""
    assert named(headers(text), 5, 7) == []
    assert Earlier.read(headers(text), 5, 7) == FIRST


@pytest.mark.parametrize("text", [b"+A", b"+B", b"+C"])
def test_a_place_in_a_batch_of_a_record_that_was_stored_alone_names_nothing(text: bytes) -> None:
    assert named(headers(text), 0, 1) == []


def test_no_header_names_nothing() -> None:
    assert named(b"", 0, END) == []
    assert named(headers(b""), 0, END) == []
    assert FIRST.text == b""


def test_what_comes_before_what_is_named_begins_anew() -> None:
    earlier = FIRST
    for sequence in rising(300):
        earlier = earlier.after(sequence)
    assert earlier.after(5) == FIRST.after(5)
