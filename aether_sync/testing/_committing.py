"""``committing``: where a handler that is called in a transaction has returned, and the commit is yet to come."""

from collections.abc import Callable
from typing import Any

__all__ = ["before_commit", "committing"]


def committing(call: Callable[..., object]) -> Callable[[Any, Any], object]:
    """Return a call of a handler after which the process may die."""

    def called(db: Any, delivery: Any) -> object:
        returned = call(db, delivery)
        before_commit()
        return returned

    return called


def before_commit() -> None:
    """Be a line of the handler's, before which a history may let the process die."""
    return
