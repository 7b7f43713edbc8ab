"""An object of the user's program, which some commands are told by ``module:name``."""

import importlib
import sys
from typing import Any

__all__ = ["imported"]


def imported(module: str, name: str) -> Any:
    """Import a module, which is looked for in the current directory, too, and return what a dotted name is in it.

    Raises:
        AttributeError: The name is not there.
        Exception: What importing the module has raised, which may be anything.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found
