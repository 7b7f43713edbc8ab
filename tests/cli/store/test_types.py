"""``export --upcast`` and ``doctor --types``: what commands do with the event types of a program."""

from pathlib import Path

import pytest

from aether_sync import ANY_VERSION, Event, EventTypes, InvalidOptionError, JetStreamEventStore, diagnose
from aether_sync.stores.doctor import questions

from ...support.lines import lines_of, put_garbage
from ...support.shell import run
from ...support.typed import Placed, old, typed

SHOP = """
from tests.support.typed import typed

class Holder:
    types = typed()

incomplete = typed()
incomplete.upcast("Other", version=1)(dict)
number = 3
"""
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program's module in the current directory."""
    (tmp_path / "shop_of_test.py").write_text(SHOP)
    (tmp_path / "broken_shop.py").write_text("raise KeyError('of the program')")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)


def fill(store: JetStreamEventStore) -> None:
    store.append("a", *(Event(actor_id="a", **old(n)) for n in (1, 2)), expected_version=ANY_VERSION)
    store.append("b", Event(event_type="Aborted", actor_id="b"), expected_version=ANY_VERSION)
    store.append("b", typed().to_event(Placed(3, "CHF"), actor_id="b"), expected_version=ANY_VERSION)
    newer = Event(event_type="Placed", actor_id="b", data={"x": 1}, metadata={"schemaVersion": "12"})
    store.append("b", *(newer.replace(id=f"id-{n}") for n in range(3)), expected_version=ANY_VERSION)
    store.append("b", Event(event_type="Other", actor_id="b"), expected_version=ANY_VERSION)


@pytest.mark.slow
def test_export_upcast(options: list[str], store: JetStreamEventStore) -> None:
    fill(store)
    plain = lines_of(run("export", *options).stdout)
    found = run("export", "--upcast", "shop_of_test:Holder.types", *options)
    lines = lines_of(found.stdout)
    assert found.returncode == 0, found.stderr
    assert "exported 8 events up to sequence 8; the server counts as many; 4 events of unknown types" in found.stderr
    assert [one["eventType"] for one in lines[:4]] == ["Placed", "Placed", "Cancelled", "Placed"]
    assert [one.get("data") for one in lines[:2]] == [{"qty": n, "currency": c} for n, c in ((1, "EUR"), (2, "USD"))]
    assert [one.get("metadata") for one in lines[:3]] == [{"schemaVersion": "3"}, {"schemaVersion": "3"}, None]
    assert lines[3:] == plain[3:]
    assert [one["id"] for one in lines] == [one["id"] for one in plain]
    assert [one["data"] for one in plain[:2]] == [{"count": 1}, {"count": 2, "currency": "USD"}]


@pytest.mark.slow
def test_an_event_that_cannot_be_upcast_ends_the_export(
    options: list[str], store: JetStreamEventStore, tmp_path: Path
) -> None:
    store.append("a", Event(actor_id="a", **old(1)), expected_version=ANY_VERSION)
    wrong = Event(event_type="Placed", actor_id="a", data={"count": "three"})
    store.append("a", wrong, Event(actor_id="a", **old(1)), expected_version=ANY_VERSION)
    file = tmp_path / "out"
    for _ in range(2):
        found = run("export", str(file), "--upcast", "shop_of_test:Holder.types", *options)
        assert found.returncode == 1
        assert "the event at sequence 2 cannot be upcast" in found.stderr
        assert "Traceback" not in found.stderr
        assert [one["sequence"] for one in lines_of(file.read_text())] == [1], "what came before is in the file"
    assert run("export", str(file), *options).returncode == 0


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("shop_of_test", "is not MODULE:NAME"),
        (":types", "is not MODULE:NAME"),
        ("nowhere:types", "No module named"),
        ("broken_shop:types", "KeyError: 'of the program'"),
        ("shop_of_test:missing", "missing"),
        ("shop_of_test:number", "of type int"),
        ("shop_of_test:incomplete", "upcaster of 'Other', which is not registered"),
    ],
)
def test_types_that_are_none(options: list[str], named: str, said: str) -> None:
    found = run("export", "--upcast", named, *options)
    assert found.returncode == 2
    assert said in " ".join(found.stderr.split())
    assert "Traceback" not in found.stderr


@pytest.mark.slow
def test_doctor_names_what_nobody_knows(options: list[str], store: JetStreamEventStore) -> None:
    fill(store)
    put_garbage(store, actor_id="a")
    found = run("doctor", "--json", "--types", "shop_of_test:Holder.types", *options)
    assert found.returncode == 0
    (one,) = [line for line in lines_of(found.stdout) if line["topic"] == "event types"]
    assert one["level"] == "warn"
    assert one["message"] == (
        "not known, among the latest 9 records: 'Placed' of version 12 (3 events, the last at sequence 7), "
        "'Other' of version 1 (1 event, the last at sequence 8)"
    )
    assert "event types" not in run("doctor", *options).stdout


def test_diagnose_with_types(store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(types: EventTypes) -> str:
        return next(
            one.message for one in diagnose(store.connection, store.stream, types=types) if "types" in one.topic
        )

    monkeypatch.setattr(questions, "_LATEST", 2)
    store.append("b", Event(event_type="Other", actor_id="b"), expected_version=ANY_VERSION)
    bad = Event(event_type="Placed", actor_id="b", metadata={"schemaVersion": "x\n"})
    store.append("b", bad, expected_version=ANY_VERSION)
    assert look(typed()) == (
        "not known, among the latest 2 records: 'Placed' of version 'x\\n' (1 event, the last at sequence 2), "
        "'Other' of version 1 (1 event, the last at sequence 1)"
    )
    store.append("a", *(Event(actor_id="a", **old(n)) for n in (1, 2)), expected_version=ANY_VERSION)
    assert look(typed()) == "all known, among the latest 2 records"
    incomplete = typed()
    incomplete.upcast("Other", version=1)(dict)
    for types in (incomplete, 3):
        with pytest.raises(InvalidOptionError):
            diagnose(store.connection, store.stream, types=types)  # type: ignore[arg-type]
