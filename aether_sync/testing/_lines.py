"""``Tracer``: counts the lines of the user's code that run while a handler works, and acts before one of them."""

import sys
import sysconfig
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from ._histories import Place

__all__ = ["MOST_LINES", "Tracer", "own_code"]

MOST_LINES = 10_000  #: lines of one call that are counted: a loop may run for long
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def own_code(packages: frozenset[str]) -> Callable[[FrameType], bool]:
    """Return a function that says whether a frame is of the user's code, and not of a library.

    Args:
        packages: The names of packages that are the user's though they may be installed among the libraries.
    """
    known: dict[str, bool] = {}

    def is_own(frame: FrameType) -> bool:
        file = frame.f_code.co_filename
        found = known.get(file)
        if found is None:
            package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
            found = package in packages or not (package == "aether_sync" or file.startswith(("<", *_LIBRARIES)))
            known[file] = found
        return found

    return is_own


class Tracer:
    """Follows the lines of the user's code on this thread, within a ``with`` statement.

    Whatever traced this thread before, such as a debugger or the measuring of coverage, pauses meanwhile.

    Args:
        is_own: Whether a frame is of the user's code.
        line: Before which line to act, counted as they run, from 1; 0 for never.
        act: What to do there. What it raises is raised in the user's code.

    Attributes:
        places: The lines that have run.
        has_acted: Whether the line was reached.
    """

    def __init__(self, is_own: Callable[[FrameType], bool], line: int, act: Callable[[Place], None]) -> None:
        self._is_own = is_own
        self._line = line
        self._act = act
        self._before: Any = None
        self.places: list[Place] = []
        self.has_acted = False

    def __enter__(self) -> Self:
        self._before = sys.gettrace()
        sys.settrace(self._enter_frame)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.settrace(self._before)

    def _enter_frame(self, frame: FrameType, what: str, argument: object) -> Any:
        return self._follow if self._is_own(frame) else None

    def _follow(self, frame: FrameType, what: str, argument: object) -> Any:
        if what == "line" and len(self.places) < MOST_LINES:
            place = Place(frame.f_code.co_filename, frame.f_lineno)
            self.places.append(place)
            if len(self.places) == self._line:
                self.has_acted = True
                self._act(place)
        return self._follow
