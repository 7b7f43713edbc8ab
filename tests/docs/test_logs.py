"""The guide's page on logs has every message of the library, with its level and its kind, and no other."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import aether_sync
from aether_sync._runtime.reporter import Details, Kind

PACKAGE = Path(aether_sync.__file__).parent
PAGE = PACKAGE / "guide" / "logs.md"
LEVELS = {"info": "INFO", "warning": "WARNING", "burst": "WARNING", "error": "ERROR"}


class Message(NamedTuple):
    """A message, with ``<>`` in the place of what is filled in."""

    text: str
    level: str
    kind: str


def _kind(node: ast.AST) -> str | None:
    """Return the kind that an expression such as ``Kind.DROPS`` is."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Kind":
        return node.attr
    return None


def _text(node: ast.expr, function: ast.AST) -> str:
    """Return the text that an argument is: itself, or what its name was set to in the function."""
    if isinstance(node, ast.Starred):
        node = node.value
    if isinstance(node, ast.Name):
        found = [
            one
            for one in ast.walk(function)
            if isinstance(one, ast.Assign) and one.lineno < node.lineno
            if ast.unparse(one.targets[0]).split(",")[0].strip("(") == node.id
        ]
        node = max(found, key=lambda one: one.lineno).value  # the last one before the call
    while isinstance(node, ast.Tuple):
        node = node.elts[0]
    assert isinstance(node, ast.Constant), f"no stable text: {ast.unparse(node)}"
    return str(node.value)


def _level(call: ast.Call, at: int) -> tuple[str, int]:
    """Return the level of a call whose argument ``at`` is the kind, and which argument its text is."""
    name = ast.unparse(call.func)
    if name == "_Message":
        return ast.unparse(call.args[at + 1]).removeprefix("logging."), at + 2
    if name == "partial":
        name = ast.unparse(call.args[0])
    return LEVELS[name.rpartition(".")[2]], at + 1


def _messages_of(function: ast.AST) -> Iterator[Message]:
    for call in ast.walk(function):
        if isinstance(call, ast.Call):
            for at, argument in enumerate(call.args):
                if kind := _kind(argument):
                    level, text = _level(call, at)
                    template = re.sub(r"%[rsd]", "<>", _text(call.args[text], function))
                    yield Message(template, level, Kind[kind].value)


@cache
def messages_of_source() -> frozenset[Message]:
    found: set[Message] = set()
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "testing":  # which reads what is logged, and logs nothing
            continue
        text = path.read_text()
        if "Kind." not in text:  # then it has no message
            continue
        tree = ast.parse(text)
        functions = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
        in_functions = [message for function in functions for message in _messages_of(function)]
        uses = len([one for one in ast.walk(tree) if _kind(one)])
        assert len(in_functions) >= uses, f"{path}: a message could not be found"
        found.update(in_functions)
    return frozenset(found)


@cache
def rows_of_page() -> list[tuple[str, str, str, str, str]]:
    pattern = r"^\| `(.+?)` \| (\w+) \| `(\w+)` \| (.*?) \| (.*?) \|$"
    return [
        (re.sub("<[^<>]*>", "<>", text), level, kind, means, do)
        for text, level, kind, means, do in re.findall(pattern, PAGE.read_text(), re.M)
    ]


def test_every_message_is_on_the_page_with_its_level() -> None:
    assert len(messages_of_source()) > 30
    assert {Message(*row[:3]) for row in rows_of_page()} == messages_of_source()
    assert len(rows_of_page()) == len({row[0] for row in rows_of_page()}), "each message has one level and one meaning"


def test_every_message_says_what_to_do() -> None:
    assert all(means.endswith(".") and do.endswith(".") for *_, means, do in rows_of_page())
    assert all(do == "Nothing." or len(do) > 20 for *_, do in rows_of_page())
    assert all(do != "Nothing." or level == "INFO" for _, level, _, _, do in rows_of_page())


def test_every_kind_and_every_attribute_is_on_the_page() -> None:
    assert {row[2] for row in rows_of_page()} == set(Kind)
    attributes = re.findall(r"^\| `(\w+)` \| `(?:str|int|dict.*?)` \|", PAGE.read_text(), re.M)
    assert set(attributes) == {"kind", *Details.__annotations__}
