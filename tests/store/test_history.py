"""The rules of the history checker: none complains of a history that can be, and each finds one that cannot."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from ..checker.history import Delivered, Fault, History, Kept, Life, Read, Record, Save, Seen, Snapshotted, report
from ..checker.rules import RULES, judge

ONE = Record(1, "e1", "a", 1, "Saved")
TWO = Record(2, "e2", "a", 2, "Moved", ends_batch=False)
THREE = Record(3, "e3", "b", 1, "Moved")
FOUR = Record(4, "e4", "gappy", 3, "Saved")
CONTENT = [ONE, TWO, THREE, FOUR]


def save(begin: float, *stored: Record, **changes: object) -> Save:
    fields: dict[str, object] = {
        "client": "c1",
        "node": "n1",
        "begin": begin,
        "end": begin + 0.5,
        "kind": "save",
        "ids": tuple(one.id for one in stored),
        "outcome": "stored",
        "stored": stored,
    }
    return Save(**fields | changes)  # type: ignore[arg-type]


def tried(begin: float, *ids: str, **changes: object) -> Save:
    """A save that is not known to be stored."""
    return save(begin, **{"ids": ids, "outcome": "unknown", **changes})


def read(begin: float, client: str = "c1", node: str = "n1", **seen: Seen) -> Read:
    return Read(client=client, node=node, begin=begin, end=begin + 0.5, kind="read", seen=seen)


def life(begin: float, after: int, checkpoint: int, *seen: Record, **changes: object) -> Life:
    fields: dict[str, object] = {
        "follower": "f",
        "node": "n1",
        "begin": begin,
        "end": begin + 0.5,
        "after": after,
        "checkpoint": checkpoint,
        "seen": seen,
    }
    return Life(**fields | changes)  # type: ignore[arg-type]


def handled(at: float, one: Record, process: str = "", consumer: str = "w") -> Delivered:
    return Delivered(consumer=consumer, process=process, at=at, sequence=one.sequence, id=one.id)


def good() -> History:
    """A history in which all goes well: times are the numbers of the calls."""
    return History(
        followers=("f", "m", "b"),
        consumers={"w": "", "moved": "Moved"},
        content=list(CONTENT),
        snapshots={"a": Kept(2, 2, 2, "e2")},
        saves=[
            save(1, ONE),
            tried(2, "e2", "e3"),
            save(3, TWO, THREE, client="c2"),  # it was
            tried(4, "e9", outcome="conflict", conflict=("a", 2, 2), stored=()),
            tried(5, "e10", outcome="refused"),
            save(6, FOUR, has_gaps=True),
            save(7, TWO, THREE),  # again
        ],
        reads=[
            read(1.6, a=Seen(1, ("e1",))),
            read(3.6, a=Seen(2, ("e1", "e2")), b=Seen(1, ("e3",))),
            read(3.7, a=Seen(2, ("e2",), first=2)),
            read(3.8, "c3", "n2", a=Seen(1, ("e1",))),  # another node may be behind
            read(4.6, a=Seen(2, (), 3, Kept(2, 2, 2, "e2")), gappy=Seen(0, ())),
            read(6.6, gappy=Seen(3)),
            read(6.7, a=Seen(0, (), first=5)),
        ],
        snapshotted=[Snapshotted(client="c1", node="n1", begin=5, end=5.5, actor="a", version=2)],
        lives=[
            life(1.2, 0, 1, ONE, caught_up=1),
            life(2, 1, 4, TWO, THREE, FOUR, caught_up=1, is_last=True),
            life(2.1, 0, 3, replace(TWO, ends_batch=True), THREE, follower="m", event_type="Moved", is_last=True),
            life(7, 0, 0, follower="b", actors="b"),
            life(8, 0, 4, THREE, follower="b", actors="b", is_last=True),
        ],
        delivered=[
            *(handled(n, one) for n, one in enumerate([ONE, TWO, ONE, THREE, FOUR], 1)),
            handled(3, THREE, "p-1", "moved"),
            handled(4, TWO, "p-2", "moved"),
            handled(5, THREE, "p-2", "moved"),
        ],
        faults=[
            Fault(begin=2, end=2.2, kind="kill", what="s1 killed"),
            Fault(begin=90, end=91, kind="kill", what="another"),
        ],
    )


Breaks = Callable[[History], None]
BREAKS: list[tuple[str, str, Breaks]] = []


def breaks(rule: str, what: str) -> Callable[[Breaks], Breaks]:
    """Note a function that makes the good history a bad one, by which rule it is found, and what is said."""

    def note(change: Breaks) -> Breaks:
        BREAKS.append((rule, what, change))
        return change

    return note


def edit(part: list, at: int, **changes: object) -> None:  # type: ignore[type-arg]
    part[at] = replace(part[at], **changes)


@breaks("lost", "e4 was stored at 4, and is not there")
def _success_is_gone(history: History) -> None:
    del history.content[3]


@breaks("lost", "e4 was stored at 4")
def _success_has_another_version(history: History) -> None:
    edit(history.content, 3, version=4)


@breaks("lost", "other events than it was given")
def _save_returns_another_event(history: History) -> None:
    edit(history.saves, 0, ids=("e7",))


@breaks("twice", "e1 is there 2 times")
def _event_is_stored_twice(history: History) -> None:
    history.content.append(replace(ONE, sequence=5, version=3))


@breaks("not_called_for", "e10 is there")
def _refused_save_is_stored(history: History) -> None:
    history.content.append(Record(5, "e10", "a", 3, "Saved"))


@breaks("not_called_for", "e9 is there")
def _conflict_is_stored(history: History) -> None:
    history.content.append(Record(5, "e9", "a", 3, "Saved"))


@breaks("not_called_for", "e8 is there")
def _unknown_save_is_stored_after_its_conflict(history: History) -> None:
    history.saves += [tried(8, "e8"), tried(9, "e8", outcome="conflict", conflict=("a", 2, 2))]
    history.content.append(Record(5, "e8", "a", 3, "Saved"))


@breaks("not_called_for", "e11 is there")
def _nobody_saved_it(history: History) -> None:
    history.content.append(Record(5, "e11", "a", 3, "Saved"))


@breaks("gaps", "the sequences are not 1 to 3: [2] are not there")
def _a_sequence_is_missing(history: History) -> None:
    del history.content[1]


@breaks("gaps", "a: version 3 follows on 1")
def _a_version_is_missing(history: History) -> None:
    edit(history.content, 1, version=3)


@breaks("gaps", "b: version 2 follows on 0")
def _the_first_version_is_missing(history: History) -> None:
    edit(history.content, 2, version=2)


@breaks("gaps", "gappy: version 3 is behind version 3")
def _a_version_is_there_twice(history: History) -> None:
    history.saves.append(tried(8, "e8", has_gaps=True))
    history.content.append(Record(5, "e8", "gappy", 3, "Saved"))


@breaks("out_of_order", "4 was saved after 5 was")
def _what_was_saved_later_is_before(history: History) -> None:
    late = Record(5, "e5", "b", 2, "Saved")
    history.content.append(late)
    history.saves.append(save(5.2, late))


@breaks("torn", "1 of 2 are there")
def _a_part_of_a_batch_is_stored(history: History) -> None:
    history.saves.append(tried(8, "e5", "e6"))
    history.content.append(Record(5, "e5", "b", 2, "Saved", ends_batch=False))


@breaks("torn", "they are not in a row")
def _a_batch_has_another_event_in_it(history: History) -> None:
    history.content[2:] = [replace(FOUR, sequence=3), replace(THREE, sequence=4)]


@breaks("torn", "the last, and only the last")
def _a_batch_without_an_end(history: History) -> None:
    edit(history.content, 2, ends_batch=False)


@breaks("torn", "e4 was saved alone")
def _one_that_does_not_end_its_batch(history: History) -> None:
    edit(history.content, 3, ends_batch=False)


@breaks("unexplained", "nobody stored version 4 of gappy")
def _a_conflict_with_nobody(history: History) -> None:
    history.saves.append(tried(8, "e8", outcome="conflict", conflict=("gappy", 4, 3)))


@breaks("unexplained", "nobody stored version 3 of gappy")
def _a_conflict_with_what_came_later(history: History) -> None:
    history.saves.append(tried(4, "e8", outcome="conflict", conflict=("gappy", 3, 3)))


@breaks("unexplained", "nobody stored version 1 of b")
def _a_conflict_with_itself(history: History) -> None:
    history.saves.append(tried(8, "e3", outcome="conflict", conflict=("b", 1, 1)))


@breaks("unexplained", "gappy never was at version 2")
def _a_conflict_with_a_version_that_never_was(history: History) -> None:
    history.saves.append(tried(8, "e8", outcome="conflict", conflict=("gappy", 1, 2)))


@breaks("unreal", "a has other events from version 0 on")
def _a_read_with_a_hole(history: History) -> None:
    history.reads.append(read(8, a=Seen(2, ("e2",))))


@breaks("unreal", "a has other events from version 2 on")
def _a_read_of_what_was_not_asked_for(history: History) -> None:
    history.reads.append(read(8, a=Seen(2, ("e1", "e2"), first=2)))


@breaks("unreal", "b never was at version 2")
def _a_read_of_what_is_not_stored(history: History) -> None:
    history.reads.append(read(8, b=Seen(2, ("e3", "e8"))))


@breaks("unreal", "b never was at version 7")
def _a_version_that_never_was(history: History) -> None:
    history.reads.append(read(8, b=Seen(7)))


@breaks("seen_in_part", "e3 was not seen")
def _a_read_of_a_part_of_a_batch(history: History) -> None:
    history.reads.append(read(8, "c5", "n5", a=Seen(2, ("e1", "e2")), b=Seen(0, ())))


@breaks("seen_in_part", "f was told wrongly where the batch of e2 ends")
def _a_follower_is_told_another_end(history: History) -> None:
    edit(history.lives, 1, seen=(replace(TWO, ends_batch=True), THREE, FOUR))


@breaks("stale", "a was known to be at version 2, and was read at 1")
def _a_read_misses_what_its_node_saved(history: History) -> None:
    history.reads.append(read(8, "c9", a=Seen(1, ("e1",))))


@breaks("stale", "a was known to be at version 2, and was read at 0")
def _nothing_is_read_of_what_its_node_saved(history: History) -> None:
    history.reads.append(read(8, "c9", a=Seen(0, (), first=2)))


@breaks("stale", "a was known to be at version 2, and was read at 1")
def _with_one_server_no_node_may_be_behind(history: History) -> None:
    history.is_current = True


@breaks("backwards", "gappy was known to be at version 3, and was read at 0")
def _a_client_sees_less_than_before(history: History) -> None:
    history.reads += [read(8, "c8", "n8", gappy=Seen(3)), read(9, "c8", "n9", gappy=Seen(0, ()))]


@breaks("backwards", "gappy was known to be at version 3, and was read at 0")
def _a_client_sees_less_than_it_saved(history: History) -> None:
    history.reads.append(read(9, "c1", "n9", gappy=Seen(0)))


@breaks("untrue_snapshots", "the snapshot of a is not true")
def _a_snapshot_is_ahead(history: History) -> None:
    history.snapshots["a"] = Kept(3, 5, 3, "e9")


@breaks("untrue_snapshots", "the snapshot of a is not true")
def _a_snapshot_of_another_place_is_loaded(history: History) -> None:
    history.reads.append(read(8, a=Seen(2, (), 3, Kept(2, 1, 2, "e2"))))


@breaks("untrue_snapshots", "the snapshot of a is not true")
def _a_snapshot_lacks_an_event(history: History) -> None:
    history.reads.append(read(8, a=Seen(2, (), 3, Kept(2, 2, 1, "e2"))))


@breaks("lost_snapshots", "is gone")
def _a_snapshot_is_gone(history: History) -> None:
    history.snapshots.clear()


@breaks("lost_snapshots", "is gone")
def _an_older_snapshot_is_there(history: History) -> None:
    history.snapshots["a"] = Kept(1, 1, 1, "e1")


@breaks("followed", "f got None, and not e4 at 4")
def _a_follower_misses_the_last(history: History) -> None:
    edit(history.lives, 1, seen=(TWO, THREE))


@breaks("followed", "and not e3 at 3")
def _a_follower_misses_one_in_between(history: History) -> None:
    edit(history.lives, 1, seen=(TWO, FOUR))


@breaks("followed", "f got Record(sequence=2")
def _a_follower_gets_one_twice(history: History) -> None:
    edit(history.lives, 1, seen=(TWO, TWO, THREE, FOUR))


@breaks("followed", "f got Record(sequence=1, id='e1'")
def _a_follower_gets_one_again_in_another_life(history: History) -> None:
    edit(history.lives, 1, seen=(ONE, TWO, THREE, FOUR))


@breaks("followed", "f got Record(sequence=3")
def _a_follower_gets_them_out_of_order(history: History) -> None:
    edit(history.lives, 1, seen=(THREE, TWO, FOUR))


@breaks("followed", "m got Record(sequence=4")
def _a_filtered_follower_gets_another_type(history: History) -> None:
    edit(history.lives, 2, seen=(TWO, THREE, FOUR), checkpoint=4)


@breaks("followed", "b got None, and not e3 at 3")
def _a_checkpoint_passes_over_one_that_was_wanted(history: History) -> None:
    edit(history.lives, 3, checkpoint=3)
    edit(history.lives, 4, after=3, seen=())


@breaks("followed", "the checkpoint 3 is before 4")
def _a_checkpoint_is_behind_what_was_taken(history: History) -> None:
    edit(history.lives, 1, checkpoint=3)


@breaks("followed", "f began at 0, and not at 1")
def _a_follower_begins_elsewhere_than_it_ended(history: History) -> None:
    edit(history.lives, 1, after=0, seen=tuple(CONTENT))


@breaks("followed", "not read to the end: f")
def _a_follower_is_not_read_to_the_end(history: History) -> None:
    edit(history.lives, 1, is_last=False)


@breaks("not_caught_up", "f was caught up at 2, and 4 was there before")
def _caught_up_without_what_was_there_before(history: History) -> None:
    history.lives.append(life(8, 4, 4, caught_up=2, is_last=True))


@breaks("consumed", "w never handled e2")
def _a_consumer_misses_one(history: History) -> None:
    del history.delivered[1]


@breaks("consumed", "moved never handled e2")
def _a_filtered_consumer_misses_one(history: History) -> None:
    del history.delivered[6]


@breaks("consumed", "w got e2 at 7")
def _a_delivery_of_another_place(history: History) -> None:
    edit(history.delivered, 1, sequence=7)


@breaks("handled_out_of_order", "w handled 1 of a after 2")
def _an_earlier_event_of_an_actor_is_handled_first_after_a_later_one(history: History) -> None:
    del history.delivered[0]


@breaks("complained", "what the server sends is not the NATS protocol")
def _something_is_logged_that_no_fault_explains(history: History) -> None:
    history.logged.append("what the server sends is not the NATS protocol")


def test_a_history_that_can_be_is_one() -> None:
    assert judge(good()) == []
    assert judge(History()) == []


@pytest.mark.parametrize(("rule", "what", "change"), BREAKS, ids=[change.__name__[1:] for *_, change in BREAKS])
def test_what_cannot_be_is_found(rule: str, what: str, change: Breaks) -> None:
    history = good()
    change(history)
    complaints = judge(history)
    found = [one for one in complaints if one.rule == rule]
    assert any(what in one.what for one in found), complaints
    assert f"{rule}: {found[0].what}" in report(history, complaints)


def test_each_rule_is_broken_by_some_history() -> None:
    assert {rule for rule, *_ in BREAKS} == {rule.__name__ for rule in RULES}


def test_a_complaint_is_shown_with_the_faults_meanwhile_and_times_from_the_first_call() -> None:
    history = good()
    edit(history.content, 2, ends_batch=False)
    complaint = judge(history)[0]
    lines = complaint.show(history).splitlines()
    assert lines[0].startswith("torn: ")
    assert [line.split("(")[0].strip() for line in lines[1:]] == ["Fault", "Save", "Save", "Save", "Record", "Record"]
    assert "begin=1, end=1.2, kind='kill', what='s1 killed'" in lines[1]
    assert "another" not in report(history, [complaint])
    assert "what is wrong: torn: 1" in report(history, [complaint])
