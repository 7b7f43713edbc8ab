"""Runs a target under atheris (the extra ``fuzz``): ``python -m tests.fuzz.decoder -max_total_time=120``.

Without ``-max_total_time`` or ``-runs`` it goes on until Ctrl-C, or the first thing it finds. What it finds on its way
is kept in a temporary directory; the corpus beside this file is only read.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent / "corpus"


def corpus(name: str) -> list[bytes]:
    """The inputs that a target starts from."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


def instrumented(module: str) -> AbstractContextManager[Any]:
    """Have what is imported inside report where it goes, if the module is run as a script."""
    if module != "__main__":
        return nullcontext()
    import atheris

    return atheris.instrument_imports(include=["aether_sync", "nats.aio", "nats.protocol"])


def fuzz(name: str, check: Callable[[bytes], object]) -> None:
    """Call a check, which raises at what must not be, with ever new bytes."""
    import atheris

    found = tempfile.mkdtemp(prefix=f"fuzz-{name}-")
    options = sys.argv[1:]
    if not any(option.startswith("-max_len") for option in options):
        options.append("-max_len=4096")
    options.append(f"-dict={Path(__file__).with_name('words.dict')}")
    os.chdir(found)  # where it leaves what it finds
    atheris.Setup([sys.argv[0], *options, found, str(CORPUS / name)], check)
    atheris.Fuzz()
