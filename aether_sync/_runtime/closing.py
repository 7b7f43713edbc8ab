"""Base classes for objects that are closed, or started and closed, by ``with``; a warning for those left unclosed."""

import os
import warnings
from threading import get_ident
from types import TracebackType
from typing import Never, Self

__all__ = ["Closeable", "Startable", "Uncopied", "loop_threads", "warn_unclosed"]

#: The idents of the loop threads that run.
loop_threads: set[int] = set()
os.register_at_fork(after_in_child=loop_threads.clear)  # none of them runs in the child, where idents are used again


class Uncopied:
    """An object with threads, files or a connection of its process, which a copy would share and end."""

    __slots__ = ()

    def __reduce__(self) -> Never:
        name = type(self).__name__
        raise TypeError(f"a {name} belongs to its process, and is not copied: make one in the other process")


class Closeable(Uncopied):
    """An object whose ``with`` block ends with :meth:`close`."""

    def close(self) -> object:
        """Release everything."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Startable(Closeable):
    """An object whose ``with`` block also begins with :meth:`start`, and which is closed if the start fails."""

    def start(self) -> None:
        """Make ready for use."""
        raise NotImplementedError

    def _begin_use(self) -> None:
        """Do what the ``with`` block begins with."""
        self.start()

    def __enter__(self) -> Self:
        try:
            self._begin_use()
        except BaseException:
            self.close()
            raise
        return self


def warn_unclosed(what: str, source: object) -> None:
    """Warn that something was not closed; on a loop thread do nothing, as a hook for warnings is user code."""
    if get_ident() not in loop_threads:
        warnings.warn(f"unclosed {what}", ResourceWarning, source=source, stacklevel=3)
