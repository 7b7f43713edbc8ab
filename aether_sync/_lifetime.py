"""``with`` for what is started and closed."""

from types import TracebackType
from typing import Self

__all__ = ["Lifetime", "loop_threads"]

#: Idents of running loop threads. A finalizer that finds itself on one runs no user code, such as a hook for warnings.
loop_threads: set[int] = set()


class Lifetime:
    """Starts with the ``with`` and closes at its end, also when the start fails."""

    def start(self) -> None:
        """Make ready for use."""
        raise NotImplementedError

    def close(self) -> object:
        """Let go of everything."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
