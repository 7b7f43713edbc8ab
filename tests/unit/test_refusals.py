"""Which subjects were refused since when, and when that is not known."""

from aether_sync._nats.refusals import Refusals


def test_what_was_refused_since() -> None:
    refusals = Refusals()
    assert refusals.since(0) == frozenset()
    for number, subject in enumerate(["a", "b", "a"], 1):
        refusals.note(subject, number)
    assert refusals.since(0) == {"a", "b"}
    assert refusals.since(2) == {"a"}
    assert refusals.since(3) == frozenset()


def test_what_names_no_subject_is_not_known() -> None:
    refusals = Refusals()
    refusals.note(None, 1)
    refusals.note("a", 2)
    assert refusals.since(0) is None
    assert refusals.since(1) == {"a"}


def test_what_is_forgotten_is_not_known() -> None:
    refusals = Refusals()
    for number in range(1, 151):
        refusals.note(f"s{number}", number)
    assert refusals.since(49) is None
    assert refusals.since(50) == {f"s{number}" for number in range(51, 151)}
