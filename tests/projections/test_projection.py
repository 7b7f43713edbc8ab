"""The promises of projections, on both stores and both databases."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aether_sync import (
    ANY_VERSION,
    DeadlineExceededError,
    Event,
    InMemoryEventStore,
    InvalidOptionError,
    Projection,
    ProjectionMismatchError,
    ProjectionStoppedError,
    StoredEvent,
    StreamRegressionError,
)
from aether_sync.stores.projections import projector

from ..support.common import PATIENCE, UNIT, eventually, first_of
from ..support.places import Place, SQLitePlace
from ..support.stores import ask


def put(store: Any, actor: str = "account-1", *amounts: int, kind: str = "Paid") -> int:
    """Append events, together; returns the sequence of the last one."""
    events = [Event(event_type=kind, actor_id=actor, data={"amount": amount}) for amount in amounts or (1,)]
    stored = store.append(actor, *events, expected_version=ANY_VERSION)
    return stored[-1].sequence


Project = Callable[..., Projection]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not applied is noted sooner, and a server that lacks an event is believed sooner."""
    monkeypatch.setattr(projector, "_BEAT", 0.1 * UNIT)
    monkeypatch.setattr(projector, "_CATCH_UP", 0.2 * UNIT)


@pytest.fixture
def project(any_store: Any, place: Place) -> Iterator[Project]:
    made: list[Projection] = []

    def make(store: Any = any_store, name: str = "balances", apply: Any = place.apply, **options: Any) -> Projection:
        projection = store.project(name, place.adapting(apply), into=place.make(), **options)
        made.append(projection)
        return projection

    yield make
    for projection in made:
        assert projection.close(PATIENCE)


class TestProjecting:
    def test_events_of_before_and_after_the_start_take_effect(
        self, any_store: Any, place: Place, project: Project
    ) -> None:
        put(any_store, "account-1", 5, 6)
        with project() as projection:
            last = put(any_store, "account-2", 7)
            projection.wait_for(last, PATIENCE)
            assert place.balances == {"account-1": (2, 11), "account-2": (1, 7)}
            assert projection.sequence == last
            assert projection.lag == 0
            assert projection.is_active
            assert projection.health()

    def test_it_goes_on_where_it_was(self, any_store: Any, place: Place, project: Project) -> None:
        for n in range(5):
            with project() as projection:
                projection.wait_for(put(any_store, "a", n), PATIENCE)
        assert place.applied == [1, 2, 3, 4, 5]

    def test_it_waits_where_it_is_not_started(self, any_store: Any, place: Place, project: Project) -> None:
        last = put(any_store)
        elsewhere = project()
        with pytest.raises(DeadlineExceededError, match="is at sequence 0, and not at 1"):
            elsewhere.wait_for(last, 0.05)
        with project():
            elsewhere.wait_for(last, PATIENCE)
            assert place.applied == [1]
            assert elsewhere.sequence == 1
            assert not elsewhere.is_active

    @pytest.mark.usefixtures("hasty")
    def test_what_the_filter_leaves_out_is_not_waited_for(self, any_store: Any, place: Place, project: Project) -> None:
        with project(actors="account-*", event_types={"Paid"}) as projection:
            put(any_store, "account-1")
            put(any_store, "account-1", kind="Opened")
            last = put(any_store, "other")
            projection.wait_for(last, PATIENCE)
            assert place.applied == [1]
            eventually(lambda: projection.sequence == last)
            assert place.query("SELECT sequence, event_sequence FROM aether_projections") == [(last, last)]

    def test_a_save_is_applied_together(self, any_store: Any, place: Place, project: Project) -> None:
        seen: list[list[int]] = []

        def apply(db: Any, stored: StoredEvent) -> None:
            place.apply(db, stored)
            seen.append(place.applied)

        for amounts in ([1], [1, 2, 3, 4, 5], [1, 2], [1, 2, 3]):
            put(any_store, "a", *amounts)
        with project(apply=apply, batch=2) as projection:
            projection.wait_for(11, PATIENCE)
        assert place.applied == [*range(1, 12)]
        assert {len(one) for one in seen} <= {0, 1, 6, 8, 11}

    @pytest.mark.usefixtures("hasty")
    def test_a_filter_that_leaves_out_the_last_of_a_save(self, any_store: Any, place: Place, project: Project) -> None:
        for n in range(3):
            events = [Event(event_type=kind, actor_id="a", version=3 * n + v) for v, kind in enumerate("ABC", 1)]
            any_store.save_events(events)
        with project(event_types={"A", "B"}, batch=1) as projection:
            projection.wait_for(9, PATIENCE)
            assert place.applied == [1, 2, 4, 5, 7, 8]
            eventually(lambda: projection.sequence == 9)


class TestStandingBy:
    def test_one_is_active_and_the_other_takes_over_at_once(
        self, any_store: Any, place: Place, project: Project
    ) -> None:
        first, second = project(), project()
        with first:
            eventually(lambda: first.is_active)
            with second:
                first.wait_for(put(any_store), PATIENCE)
                assert (first.is_active, second.is_active) == (True, False)
                assert second.health()
                second.wait_for(1, PATIENCE)
                first.close()
                eventually(lambda: second.is_active)
                second.wait_for(put(any_store), PATIENCE)
        assert place.applied == [1, 2]


class TestFailing:
    def test_it_stops_at_an_event(self, any_store: Any, place: Place, project: Project) -> None:
        def apply(db: Any, stored: StoredEvent) -> None:
            place.apply(db, stored)
            if stored.event.data and stored.event.data["amount"] == 13:
                raise LookupError("no such account")

        for amounts in ([1], [2, 3], [4, 13, 5], [6]):
            put(any_store, "a", *amounts)
        elsewhere = project(apply=apply)
        with project(apply=apply) as projection:
            for one in projection, elsewhere:
                with pytest.raises(ProjectionStoppedError, match=r"stopped at event 5 .*LookupError: no such account"):
                    one.wait_for(7, PATIENCE)
            assert place.applied == [1, 2, 3]
            assert not projection.health()
            assert not projection.health().alive
            projection.wait_for(3, PATIENCE)
        with project() as mended:
            mended.wait_for(7, PATIENCE)
        assert place.applied == [*range(1, 8)]

    def test_it_sets_an_event_aside(self, any_store: Any, place: Place, project: Project) -> None:
        good: list[bool] = []

        def apply(db: Any, stored: StoredEvent) -> None:
            place.apply(db, stored)
            if stored.event.data and stored.event.data["amount"] == 13 and not good:
                db.execute("INSERT INTO balances VALUES (NULL, NULL, NULL)")

        for amounts in ([1], [4, 13, 5], [6]):
            put(any_store, "a", *amounts)
        with project(apply=apply, on_error="set_aside") as projection:
            projection.wait_for(5, PATIENCE)
            assert place.applied == [1, 2, 4, 5]
            assert place.balances == {"a": (4, 16)}
            (aside,) = projection.set_aside()
            assert (aside.sequence, aside.actor_id, aside.event_type) == (3, "a", "Paid")
            assert "null" in aside.reason.lower()
            with pytest.raises(ProjectionStoppedError, match="event 3, which was set aside, cannot be applied"):
                projection.apply_again()
            assert place.applied == [1, 2, 4, 5]
            good.append(True)
            assert projection.apply_again() == 1
            assert projection.set_aside() == []
            assert place.applied == [1, 2, 3, 4, 5]
            projection.wait_for(put(any_store, "a"), PATIENCE)

    @pytest.mark.parametrize("how", first_of(["method", "commit", "rollback"]))
    def test_a_commit_by_the_user_stops_it(self, any_store: Any, place: Place, project: Project, how: str) -> None:
        def apply(db: Any, stored: StoredEvent) -> None:
            place.apply(db, stored)
            if stored.sequence == 2:
                db.connection.commit() if how == "method" else db.execute(how)

        for n in range(3):
            put(any_store)
        with project(apply=apply) as projection, pytest.raises(ProjectionStoppedError, match=r"commit|roll"):
            projection.wait_for(3, PATIENCE)
        if isinstance(place, SQLitePlace):
            assert place.applied == [1]
        else:
            with pytest.raises(ProjectionStoppedError, match="rebuild"):
                project().start()


class TestMismatches:
    def test_other_filters_are_refused(self, any_store: Any, place: Place, project: Project) -> None:
        with (
            project(actors="a-*"),
            pytest.raises(ProjectionMismatchError, match=r"actors='a-\*'.*was to be.*actors='b-\*'"),
        ):
            project(actors="b-*").start()


class TestBadInput:
    @pytest.mark.parametrize("name", ["", None, 5, "x" * 201, "a\nb"])
    def test_a_name(self, any_store: Any, place: Place, name: Any) -> None:
        with pytest.raises(InvalidOptionError, match="name of a projection"):
            any_store.project(name, place.apply, into=place.make())


class TestRebuilding:
    def test_it_is_built_anew_beside_the_one_that_runs(self, any_store: Any, place: Place, project: Project) -> None:
        def apply(db: Any, stored: StoredEvent) -> None:
            amount = (stored.event.data or {})["amount"] * 10
            place.apply(db, StoredEvent(stored.event.replace(data={"amount": amount}), stored.sequence))
            seen.append(place.balances)

        seen: list[object] = []
        reports: list[tuple[int, int]] = []
        for n in range(3):
            put(any_store, f"a-{n}", 1, 2)
        with project() as projection:
            projection.wait_for(6, PATIENCE)
            old = place.balances
            project(apply=apply).rebuild(["applied", "balances"], progress=lambda *one: reports.append(one))
            assert all(one == old for one in seen)
            assert place.balances == {f"a-{n}": (2, 30) for n in range(3)}
            projection.wait_for(put(any_store, "a-0", 5), PATIENCE)
            assert place.balances["a-0"] == (3, 35)
        assert place.applied == [*range(1, 8)]
        assert reports[0] == (0, 6)
        assert reports[-1] == (6, 6)

    @pytest.mark.usefixtures("hasty")
    def test_with_other_filters_it_takes_the_place_of_the_old_one(
        self, any_store: Any, place: Place, project: Project
    ) -> None:
        put(any_store, "a-1")
        put(any_store, "b-1")
        with project(actors="a-*") as old:
            old.wait_for(2, PATIENCE)
            new = project(actors="b-*")
            with pytest.raises(ProjectionMismatchError):
                new.start()
            new.rebuild(["applied", "balances"])
            assert list(place.balances) == ["b-1"]
            eventually(lambda: not old.health())
            with pytest.raises(ProjectionMismatchError):
                old.wait_for(put(any_store, "a-1"), PATIENCE)
            new.start()
            new.wait_for(put(any_store, "b-1"), PATIENCE)
        assert place.applied == [2, 4]

    def test_it_writes_nothing_but_its_tables(self, any_store: Any, place: Place, project: Project) -> None:
        put(any_store)
        with project() as projection:
            projection.wait_for(1, PATIENCE)
        before = place.balances
        with pytest.raises(ProjectionStoppedError, match=r"is as it was: event 1 cannot be applied"):
            project().rebuild(["balances"])
        with pytest.raises(InvalidOptionError, match="no table 'nonsense'"):
            project().rebuild(["nonsense"])
        assert place.applied == [1]
        assert place.balances == before

    def test_it_mends_what_the_user_has_committed(self, any_store: Any, place: Place, project: Project) -> None:
        put(any_store)
        with project() as projection:
            projection.wait_for(1, PATIENCE)
        place.query("INSERT INTO applied VALUES (1)")
        place.query("UPDATE aether_projections SET stopped = 'transaction', reason = 'it was so'")
        with pytest.raises(ProjectionStoppedError, match="it was so"):
            project().start()
        project().rebuild(["applied", "balances"])
        with project() as projection:
            projection.wait_for(put(any_store), PATIENCE)
        assert place.applied == [1, 2]


class TestAnotherStream:
    @pytest.mark.usefixtures("hasty")
    def test_a_stream_that_was_made_anew(self, any_store: Any, place: Place, project: Project, make_store: Any) -> None:
        put(any_store, "a", 1, 2, 3)
        with project() as projection:
            projection.wait_for(3, PATIENCE)
        if isinstance(any_store, InMemoryEventStore):
            anew: Any = InMemoryEventStore()
        else:
            ask(any_store, f"STREAM.DELETE.{any_store.stream}")
            any_store.close()
            anew = make_store()
        with anew:
            put(anew, "b", 1, 2)
            with pytest.raises(StreamRegressionError, match=r"ends at sequence 2.*rebuild"):
                project(anew).start()
            put(anew, "b", 1, 2)
            with pytest.raises(StreamRegressionError, match=r"has event .* at sequence 3.*rebuild"):
                project(anew).start()
            assert place.applied == [1, 2, 3]
            last = project(anew)
            last.rebuild(["applied", "balances"])
            last.start()
            last.wait_for(put(anew, "b", 1), PATIENCE)
            assert place.balances == {"b": (5, 7)}
            last.close()
