"""The command ``rebuild``: a projection of the user's program, by its module and name."""

from pathlib import Path

import pytest

from ..support.places import SQLitePlace
from ..support.shell import run

PROGRAM = """
from aether_sync import InMemoryEventStore, Event, SQLite

store = InMemoryEventStore()
for n in range(1, 4):
    store.save_event(Event(event_type="T", actor_id="a", version=n))

def apply(db, stored):
    db.execute("INSERT INTO applied VALUES (?)", (stored.sequence,))

applied = store.project("p", apply, into=SQLite("read.db"))

def make():
    return applied
"""


@pytest.mark.parametrize("name", ["applied", "make"])
def test_it_builds_the_rows_anew(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = SQLitePlace(tmp_path)
    (tmp_path / "shop.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    found = run("rebuild", f"shop:{name}", "--table", "applied")
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == "projection 'p' is built anew, up to sequence 3\n"
    assert place.applied == [1, 2, 3]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("shop", "is no MODULE:NAME"),
        ("shop:nothing", "has no attribute 'nothing'"),
        ("nowhere:p", "No module named 'nowhere'"),
        ("shop:apply", "'shop:apply' is called without arguments, and "),
        ("shop:store", "and no projection"),
    ],
)
@pytest.mark.slow
def test_wrong_usage(where: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    found = run("rebuild", where, "--table", "applied")
    assert found.returncode == 2
    assert said in found.stderr
    assert found.stderr.count("\n") == 1
