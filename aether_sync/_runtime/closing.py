"""What all objects that are started and closed share: their ``with``, and a warning for those that nobody closed."""

import os
import warnings
from threading import get_ident
from types import TracebackType
from typing import Self

__all__ = ["Closeable", "Startable", "loop_threads", "warn_unclosed"]

#: Idents of running loop threads.
loop_threads: set[int] = set()
os.register_at_fork(after_in_child=loop_threads.clear)  # none of them runs there, and idents are reused


class Closeable:
    """Is closed at the end of its ``with``."""

    def close(self) -> object:
        """Let go of everything."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Startable(Closeable):
    """Is also started by its ``with``, and closed if the start fails."""

    def start(self) -> None:
        """Make ready for use."""
        raise NotImplementedError

    def _begin_use(self) -> None:
        """Start as ``with`` does; a subclass may wait for less than :meth:`start`."""
        self.start()

    def __enter__(self) -> Self:
        try:
            self._begin_use()
        except BaseException:
            self.close()
            raise
        return self


def warn_unclosed(what: str, source: object) -> None:
    """Warn of an object that nobody closed, except on a loop thread, where no hook of the user's may run."""
    if get_ident() not in loop_threads:
        warnings.warn(f"unclosed {what}", ResourceWarning, source=source, stacklevel=3)
