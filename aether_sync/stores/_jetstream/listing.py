"""``all_of()``: lists of the server that have several pages."""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from ...errors import DeadlineExceededError

__all__ = ["Listed", "all_of"]

T = TypeVar("T")


class Listed(NamedTuple, Generic[T]):
    """A page of a list of the server, which is sorted by name.

    Attributes:
        page: The items by name.
        limit: How many places of the list a page has, unless it is the last.
        total: How many places the whole list has.
    """

    page: dict[str, T]
    limit: int
    total: int


def all_of(ask: Callable[[int], Listed[T]]) -> dict[str, T]:
    """Return everything that the server lists, by name.

    The server counts the places of a page from the start of the list, and between two pages names may be added and
    removed. Therefore each page is requested from the last place of the one before, and is used only if it has a name
    that is known already: then no name between the two pages is missed. It ends with the page that says that it is the
    last one.

    Args:
        ask: Requests a page by its first place.

    Raises:
        DeadlineExceededError: A page did not come in time.
    """
    found: dict[str, T] = {}
    first = total = 0
    while True:
        try:
            page, limit, total = ask(first)
        except DeadlineExceededError as error:
            so_far = f": {len(found):,} of {total:,} were listed" if found else ""
            raise DeadlineExceededError(f"{error}{so_far}") from error
        if first and found.keys().isdisjoint(page):  # names before it were removed
            first = max(0, first - (limit or first))
            continue
        found |= page
        if first + limit >= total:
            return found
        first += limit - 1
