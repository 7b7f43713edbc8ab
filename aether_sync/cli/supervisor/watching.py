"""Watches the files of the program, for development. Needs watchfiles."""

import importlib.machinery
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from watchfiles import PythonFilter, watch

from ..._runtime.threads import make_thread, start
from ..._values.shown import explained

__all__ = ["watching"]


@contextmanager
def watching(module: str, changed: Callable[[str], None], report: Callable[[str], None]) -> Iterator[None]:
    """Call a function, on a thread of its own, with the path of a Python file that has changed.

    Args:
        module: The user's module. Its folder is watched, and so is the current folder.
        changed: What is called.
        report: Is called with what is to be said to the user, if files cannot be watched.
    """
    folders = _folders_of(module)
    stop = threading.Event()

    def work() -> None:
        try:
            for changes in watch(*folders, watch_filter=PythonFilter(), stop_event=stop, raise_interrupt=False):
                changed(os.path.relpath(min(path for _, path in changes)))
        except Exception as error:  # the system has no room for more watches, or a folder is gone
            report(f"--reload: changes are not seen any more: {explained(error)}")

    thread = make_thread(work, name="aether-reload")
    start(thread)
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _folders_of(module: str) -> list[Path]:
    """Return the current folder, and that of a module's package if it is elsewhere."""
    here = Path.cwd()
    spec = importlib.machinery.PathFinder.find_spec(module.partition(".")[0], ["", *sys.path])
    places = [Path(one).resolve() for one in (spec and spec.submodule_search_locations) or ()]
    if spec is not None and spec.origin and not places:
        places = [Path(spec.origin).resolve().parent]
    return [here, *(place for place in places if not place.is_relative_to(here))]
