"""Which rows a relay takes: the first ones that wait, in order, and of each actor or namespace without a gap.

Rows come by their ids. The first row of an actor that is seen is its head. If the head cannot be had, because another
relay has it, none of the later rows is taken, as they must not overtake it. So of two relays each has other actors, and
one that dies has its rows freed by the database at once.

A row with a lower id may become visible after one with a higher id, if their transactions ran at the same time: ids are
given before the commit. Then neither of the two has seen the other, so either order is right, and what is taken here is
in the order in which it became visible. This holds for rows that are seen by one look, and a later look sees more: it
therefore begins with the first row again, and a row that was committed meanwhile is before the later ones of its actor.
"""

from collections.abc import Collection

from .database import OutboxTable
from .rows import Key, Kind, OutboxRow

__all__ = ["take"]

_LOOKS = (1, 4, 16)  # batches of rows: where others have all of so many, this relay looks again later


def take(table: OutboxTable, kinds: Collection[Kind], batch: int) -> list[OutboxRow]:
    """Take rows, and lock them where the database can: up to ``batch``, in the order in which they may be sent."""
    taken: dict[int, OutboxRow] = {}
    busy: set[Key] = set()  # others have a row of these, and what comes later waits for it
    for batches in _LOOKS:
        there = table.waiting(batches * batch, kinds)
        free = [(id_, key) for id_, key in there if id_ not in taken and key not in busy][: batch - len(taken)]
        if free:
            got = {row.id: row for row in table.take([id_ for id_, _ in free])}
            for id_, key in free:
                if id_ in got and key not in busy:
                    taken[id_] = got[id_]
                else:
                    busy.add(key)
        if len(there) < batches * batch or len(taken) >= batch:
            break
    return list(taken.values())
