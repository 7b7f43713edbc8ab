"""The command ``aether-sync``: a demonstration, events from and to a shell, and the store. Needs the extra ``cli``.

Exit status of every command: 0 when all that was asked was done; 1 when not, and a message says why; 2 for wrong usage;
130 after Ctrl-C (128 + the signal's number); 141 when whoever reads the output has gone. ``server`` and
``run`` are told to stop, and end with 0; ``run`` with 3 if it left something undone.
"""

import sys

try:
    import click  # noqa: F401  # here, so that it is said in one sentence what is missing
    import rich  # noqa: F401
except ModuleNotFoundError as missing:
    if missing.name not in ("click", "rich"):
        raise
    sys.exit(f"aether-sync: the command line needs {missing.name}: install the extra 'cli' of aether-sync")

from ._commands import main

__all__ = ["main"]
