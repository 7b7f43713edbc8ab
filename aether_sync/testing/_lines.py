"""``Tracer``: counts the lines of the user's code that run while a handler works, and acts before one of them."""

import opcode
import sys
import sysconfig
from collections.abc import Callable
from types import CodeType, FrameType, TracebackType
from typing import Any, Self

from ._committing import before_commit
from ._histories import Part, Place

__all__ = ["MOST_LINES", "Tracer", "own_code"]

MOST_LINES = 10_000  #: lines of one call that are counted: a loop may run for long
#: Instructions that call something. An assignment to several names is one thing: a fake of a database may need that.
_CALLS = frozenset(opcode.opmap[name] for name in ("CALL", "CALL_KW", "CALL_FUNCTION_EX") if name in opcode.opmap)
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def own_code(packages: frozenset[str]) -> Callable[[FrameType], bool]:
    """Return a function that says whether a frame is of the user's code, and not of a library.

    Args:
        packages: The names of packages that are the user's though they may be installed among the libraries.
    """
    known: dict[str, bool] = {}

    def is_own(frame: FrameType) -> bool:
        if frame.f_code is before_commit.__code__:
            return True
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
        part: In the middle of that line, before which of its parts to act; 0 for before the line.
        counts_parts: Whether to note parts of lines, which takes longer.
        act: What to do there. What it raises is raised in the user's code.

    Attributes:
        places: The lines that have run.
        parts: Their parts that have run, from the second of each line on.
        has_acted: Whether the line was reached.
    """

    def __init__(
        self,
        is_own: Callable[[FrameType], bool],
        line: int,
        act: Callable[[Place], None],
        *,
        part: int = 0,
        counts_parts: bool = False,
    ) -> None:
        self._is_own = is_own
        self._wanted = Part(line, part)
        self._sees_parts = counts_parts or bool(part)
        self._act = act
        self._before: Any = None
        self.places: list[Place] = []
        self.parts: list[Part] = []
        self.has_acted = False

    def __enter__(self) -> Self:
        self._before = sys.gettrace()
        sys._getframe().f_trace_opcodes = self._sees_parts  # Python 3.12 looks for it only when tracing begins
        sys.settrace(self._enter_frame)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.settrace(self._before)

    def _enter_frame(self, frame: FrameType, what: str, argument: object) -> Any:
        if not self._is_own(frame):
            return None
        frame.f_trace_opcodes = self._sees_parts
        frame.f_trace = follow = _InFrame(self, frame.f_code).follow  # Python 3.13 looks for it only at this
        return follow

    def note_line(self, place: Place) -> int:
        """Note that a line begins; return its number, 0 if it is not counted any more."""
        if len(self.places) >= MOST_LINES:
            return 0
        self.places.append(place)
        self._act_at(Part(len(self.places), 0), place)
        return len(self.places)

    def note_part(self, part: Part, place: Place) -> None:
        """Note that a part of a line begins."""
        if len(self.parts) < MOST_LINES:
            self.parts.append(part)
            self._act_at(part, place)

    def _act_at(self, here: Part, place: Place) -> None:
        if here == self._wanted:
            self.has_acted = True
            self._act(place)


class _InFrame:
    """Follows a frame: what it calls may run lines before it goes on with its own."""

    def __init__(self, tracer: Tracer, code: CodeType) -> None:
        self._tracer = tracer
        self._instructions = code.co_code  # a copy, which is made once
        self._line = self._calls = 0

    def follow(self, frame: FrameType, what: str, argument: object) -> Any:
        if what == "line":
            self._calls = 0
            self._line = self._tracer.note_line(Place(frame.f_code.co_filename, frame.f_lineno))
        elif what == "opcode" and self._line and self._instructions[frame.f_lasti] in _CALLS:
            self._calls += 1
            if self._calls > 1:  # before the first one, nothing of the line has been done
                place = Place(frame.f_code.co_filename, frame.f_lineno)
                self._tracer.note_part(Part(self._line, self._calls), place)
        return self.follow
