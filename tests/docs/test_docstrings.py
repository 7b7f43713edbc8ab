"""Docstrings, also those that the API reference does not show, describe the parameters that there are."""

import ast
import re
from pathlib import Path

import pytest

import aether_sync

ROOM = Path(aether_sync.__file__).parent


def described(docstring: str) -> set[str]:
    """The names in its section ``Args``."""
    section = re.search(r"^Args:\n((?: {4}.*\n?|\n)+)", docstring, re.M)
    return set() if section is None else set(re.findall(r"^ {4}\**(\w+):", section[1], re.M))


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    every = function.args
    rest = [one for one in (every.vararg, every.kwarg) if one is not None]
    return {one.arg for one in (*every.posonlyargs, *every.args, *every.kwonlyargs, *rest)} - {"self", "cls"}


def constructor(kind: ast.ClassDef) -> ast.FunctionDef | None:
    return next((one for one in kind.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)


FOLDERS = sorted({path.parent for path in ROOM.rglob("*.py")})


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOM)))
def test_each_parameter_that_is_described_is_there_and_no_other_is_left_out(folder: Path) -> None:
    wrong = []
    texts = [path.read_text(encoding="utf-8") for path in folder.glob("*.py")]
    trees = [ast.parse(text) for text in texts if "Args:" in text]
    for node in (node for tree in trees for node in ast.walk(tree)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        names = described(ast.get_docstring(node) or "")
        function = constructor(node) if isinstance(node, ast.ClassDef) else node
        if names and function is not None and names != parameters(function):
            wrong.append((node.name, sorted(names ^ parameters(function))))
    assert not wrong
