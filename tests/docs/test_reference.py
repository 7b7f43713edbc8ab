"""The API reference is made from the docstrings, and is current."""

import importlib
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import aether_sync

pytest.importorskip("griffe")  # the extra `dev` brings it

from .reference.__main__ import differences
from .reference.pages import BRIDGES, PAGES, Page, Reference

ROOT = Path(__file__).parents[2]
API = Path(aether_sync.__file__).parent / "guide" / "api"


def test_every_public_name_is_described_once() -> None:
    headings = [
        name
        for path in API.glob("*.md")
        for name in re.findall(r"^## `(\w+)`$", path.read_text(encoding="utf-8"), re.M)
    ]
    public = list(aether_sync.__all__)
    for module in BRIDGES:
        public += importlib.import_module(f"aether_sync.{module}").__all__
    assert sorted(headings) == sorted(public)
    index = (API / "index.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^- \[`(\w+)`\]", index, re.M)) == sorted(public)


def check() -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.docs.reference", "--check"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
def test_the_pages_are_current() -> None:
    done = check()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), "run: python -m tests.docs.reference"


@pytest.mark.slow
def test_the_same_is_written_each_time() -> None:
    assert Reference().pages() == Reference().pages()


def test_what_is_not_current_is_named(tmp_path: Path) -> None:
    pages = {"bus.md": "one", "events.md": "two", "errors.md": "three"}
    for name, text in {**pages, "events.md": "older", "gone.md": "four"}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "errors.md").unlink()
    assert differences(pages, tmp_path) == ["errors.md", "events.md", "gone.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_shows_markdown_alone(page: Page) -> None:
    text = (API / f"{page.name}.md").read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    assert not re.findall(r":[a-z]+:`|``|={4}|::$", prose, re.M)
    assert "\n\n\n" not in prose.replace("\n\n\n\n", "\n\n")


# -- what is made of a docstring


class Made:
    """The reference of a package of one module, ``events``."""

    def __init__(self, folder: Path, source: str, names: str) -> None:
        package = folder / "aether_sync"
        package.mkdir()
        (package / "events.py").write_text(textwrap.dedent(source))
        (package / "elsewhere.py").write_text("class Odd: ...\n")
        (package / "errors.py").write_text('"""Errors.\n\nThe tree::\n\n    A\n    └── B\n"""\n')
        exported = [name.strip() for name in names.split(",")]
        (package / "__init__.py").write_text(f"from .events import {names}\n__all__ = {exported}\n")
        reference = Reference(package)
        self.pages = reference.pages()
        self.text = self.pages["events.md"]
        self.faults = reference.faults

    def code(self, heading: str) -> str:
        found = re.search(rf"^#+ `{heading}`\n\n```py\n(.*?)\n```$", self.text, re.M | re.S)
        assert found is not None, self.text
        return found[1]


def test_a_function_is_shown_with_types_and_defaults(tmp_path: Path) -> None:
    source = '''
        from typing import Literal

        _LIMIT = 65_536

        def send(
            subject: str, /, *parts: bytes, limit: int = _LIMIT, mode: Literal["a", "b"] = "a", **rest: object
        ) -> bool:
            """Send ``parts``, as ``Thing`` says.

            Args:
                subject: Where to, as :meth:`Thing.act` has it.
                *parts: What.
                limit: Bytes.

            Returns:
                Whether it went: or not.

            Raises:
                ValueError: It is ``<none>``.
                Thing: Never.
            """

        async def read(*, at: Datetime) -> None:
            """Read."""

        class Thing:
            """A thing.

            Attributes:
                size: In bytes.
            """

            def __init__(self, size: int) -> None:
                self.size = size

            def act(self) -> None:
                """Act. See :class:`Thing` and :meth:`act`, not ``act``."""
        '''
    made = Made(tmp_path, source, "send, read, Thing")
    assert made.faults == []
    assert made.code("send") == textwrap.dedent(
        """\
        def send(
            subject: str,
            /,
            *parts: bytes,
            limit: int = 65_536,
            mode: Literal["a", "b"] = "a",
            **rest: object,
        ) -> bool"""
    )
    assert made.code("read") == "async def read(*, at: datetime) -> None"
    assert "Send `parts`, as [`Thing`](#thing) says." in made.text
    assert "- `subject`: Where to, as [`Thing.act()`](#thingact) has it." in made.text
    assert "Returns: Whether it went: or not." in made.text
    assert "- `ValueError`: It is `<none>`." in made.text
    assert "- [`Thing`](#thing): Never." in made.text
    assert "- `size: int`: In bytes." in made.text
    assert "Act. See `Thing` and [`act()`](#thingact), not `act`." in made.text
    assert "```text\nA\n└── B\n```" in made.pages["errors.md"]


def test_a_class_is_shown_with_what_it_has(tmp_path: Path) -> None:
    source = '''
        from dataclasses import dataclass, field
        from typing import Protocol

        class _Base:
            def __enter__(self): ...

            def __next__(self): ...

            def __anext__(self): ...

            def shared(self) -> int:
                """Told by the private base."""

        class Face(Protocol):
            """What all have.

            ``shown`` is among it.
            """

            @property
            def shown(self) -> bool:
                """Whether it is."""

        class Parent(_Base):
            """A parent."""

            def first(self) -> None:
                """Do it first."""

            def undocumented(self) -> None: ...

        class Child(Parent):
            """A child.

            Args:
                name: What it is called.
            """

            def __init__(self, name: str) -> None: ...

            def first(self) -> None: ...

            def second(self) -> None:
                """Do it second, after :meth:`first`."""

            @property
            def shown(self) -> bool: ...

            @classmethod
            def of(cls, name: str) -> "Child":
                """Make one."""

        @dataclass(frozen=True)
        class Value:
            """A value."""

            number: int = 12_000
            share: float = 0.000_25
            items: list[int] = field(default_factory=list)
        '''
    made = Made(tmp_path, source, "Face, Parent, Child, Value")
    assert made.faults == []
    assert made.code("Child") == "class Child(name: str)"
    assert "Derives from [`Parent`](#parent)." in made.text
    assert "It is a context manager, an iterator and an asynchronous iterator." in made.text
    assert "As in [`Parent`](#parent): [`first()`](#parentfirst), [`shared()`](#parentshared)." in made.text
    assert "As in [`Face`](#face): [`shown`](#faceshown)." in made.text
    assert made.code("Parent.shared") == "def shared() -> int"
    assert made.code("Face.shown") == "shown: bool"
    assert "Do it second, after [`first()`](#parentfirst)." in made.text
    assert made.code("Child.of") == "@classmethod\ndef of(name: str) -> Child"
    assert "- `number: int = 12_000`\n- `share: float = 0.00025`\n- `items: list[int] = ...`" in made.text
    assert "undocumented" not in made.text
    assert "class Parent" not in made.text  # nothing says that a user makes one


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    source = '''
        from .elsewhere import Odd

        BARE = 1

        def act(one: int) -> None:
            """Act.

            Args:
                two: There is none.

            Raises:
                As another.
            """
        '''
    made = Made(tmp_path, source, "BARE, act, Odd")
    assert "Odd: no page of PAGES has aether_sync.elsewhere.Odd" in made.faults
    assert "BARE: aether_sync.events.BARE has no docstring" in made.faults
    assert any("Parameter 'two' does not appear in the function signature" in one for one in made.faults)
    assert any("Failed to get 'exception: description' pair from 'As another.'" in one for one in made.faults)
