"""Which rows a relay takes: the first ones that wait, in order, and of each actor or namespace without a gap.

Rows come by their ids. The first row of an actor that is seen is its head. If the head cannot be had, because another
relay has it, none of the later rows is taken, as they must not overtake it. So of two relays each has other actors, and
one that dies has its rows freed by the database at once.

A row with a lower id may become visible after one with a higher id, if their transactions ran at the same time: ids are
given before the commit. Then neither of the two has seen the other, so either order is right, and what is taken here is
in the order in which it became visible.
"""

from collections.abc import Collection

from .database import OutboxTable
from .rows import Key, Kind, OutboxRow

__all__ = ["take"]

_PAGES_AT_MOST = 20  # for one batch: where others have all rows of so many pages, this relay looks again later


def take(table: OutboxTable, kinds: Collection[Kind], batch: int) -> list[OutboxRow]:
    """Take rows, and lock them where the database can: up to ``batch``, in the order of their ids."""
    taken: list[OutboxRow] = []
    busy: set[Key] = set()  # others have a row of these, and what comes later waits for it
    after = 0
    for _ in range(_PAGES_AT_MOST):
        page = table.page(after, batch, kinds)
        wanted = [(id_, key) for id_, key in page if key not in busy][: batch - len(taken)]
        if wanted:
            got = {row.id: row for row in table.take([id_ for id_, _ in wanted])}
            for id_, key in wanted:
                if id_ in got and key not in busy:
                    taken.append(got[id_])
                else:
                    busy.add(key)
        if len(page) < batch or len(taken) >= batch:
            break
        after = page[-1][0]
    return taken
