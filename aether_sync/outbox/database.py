"""What a relay needs of a database: ``OutboxDatabase``, and ``OutboxTable``, the table through one connection.

Whoever builds an outbox for another database layer implements these two, and writes rows that
:func:`~aether_sync.outbox.rows.row_to_append` and ``row_to_publish`` make, within the user's transaction. The rest
(order, versions, what is set aside, threads) is the relay's.

The table has the columns of :class:`~aether_sync.outbox.rows.OutboxRow`:

| column           | type                  |                                                                        |
| ---------------- | --------------------- | ---------------------------------------------------------------------- |
| id               | bigint, primary key   | numbered by the database; a number is never used again (AUTOINCREMENT)  |
| kind             | varchar(8)            | ``append`` or ``publish``                                              |
| name             | varchar(512)          | compared byte by byte                                                  |
| events           | text, any length      | JSON                                                                   |
| count            | integer               |                                                                        |
| expected_version | bigint, null          |                                                                        |
| version          | bigint, null          |                                                                        |
| created_at       | timestamp             |                                                                        |
| error            | text                  | "" while the row is not set aside                                      |
| set_aside_at     | timestamp, null       | has an index of the rows that have it                                  |

A later release that needs another column adds one that may be null, or has a default in the database: so a relay of the
new release and writers of the old one go on side by side while a site is changed.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from .._values.clock import Datetime
from .rows import Key, Kind, OutboxRow

__all__ = ["OutboxCounts", "OutboxDatabase", "OutboxTable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxCounts:
    """What is in the table.

    Attributes:
        waiting: How many rows wait to be sent.
        oldest: When the oldest of them was made; None if there is none.
        set_aside: How many rows are set aside.
        for_others: How many rows wait that are of other kinds.
    """

    waiting: int
    oldest: Datetime | None
    set_aside: int
    for_others: int = 0


class OutboxTable(ABC):
    """The table of an outbox through one connection, which one thread uses at a time.

    Each method may raise what the database raises: the relay asks :meth:`OutboxDatabase.is_passing`, closes this, and
    opens another one.

    Attributes:
        locks_rows: Whether :meth:`take` locks rows until the end of the transaction and passes over those that others
            have locked (``FOR UPDATE SKIP LOCKED``). Where the database cannot, one relay works at a time, see
            :attr:`turn_file`.
        turn_file: If it does not lock rows: a file beside the database, which relays of all processes lock to take
            turns; "" if there is none, as for a database in memory.
    """

    locks_rows: bool
    turn_file: str = ""

    @abstractmethod
    def check(self) -> None:
        """See that the table is there, with all columns.

        Raises:
            OutboxError: It is not; the error names the table, and says what to do.
        """

    @abstractmethod
    def transaction(self) -> AbstractContextManager[object]:
        """Return a transaction: committed at the end of the ``with`` statement, rolled back if that raises.

        With :attr:`locks_rows` it is ``READ COMMITTED``, and a relay holds it while it sends what it has locked there.
        Without, it is one that writes from the start (``BEGIN IMMEDIATE``) and is short.
        """

    @abstractmethod
    def waiting(self, limit: int, kinds: Collection[Kind]) -> Sequence[tuple[int, Key]]:
        """Return the ids and keys of the first rows that wait, in the order of their ids. This locks nothing.

        Left out are rows that are set aside, and rows for the store whose actor has any row that is set aside. It is
        called outside of a transaction, too, if the table does not lock rows.

        Args:
            limit: At most this many rows.
            kinds: Only rows of these kinds.
        """

    @abstractmethod
    def take(self, ids: Collection[int]) -> Sequence[OutboxRow]:
        """Return those of these rows that are still there and are not set aside, in any order.

        With :attr:`locks_rows`: lock them, leave out those that others have locked, and return what is committed now.
        Without, it is called outside of a transaction, too.
        """

    @abstractmethod
    def plan(self, versions: Mapping[int, int]) -> None:
        """Write versions of rows, by their ids. It is called within a transaction."""

    @abstractmethod
    def remove(self, ids: Collection[int]) -> None:
        """Delete rows, whether or not they are there. It is called within a transaction."""

    @abstractmethod
    def set_aside(self, errors: Mapping[int, str], at: Datetime) -> None:
        """Write errors of rows, by their ids, and the time. It is called within a transaction."""

    @abstractmethod
    def counts(self, kinds: Collection[Kind]) -> OutboxCounts:
        """Return what is in the table, of these kinds; and how much waits of the others."""

    @abstractmethod
    def list_set_aside(self, limit: int, after: int = 0) -> Sequence[OutboxRow]:
        """Return the first rows that are set aside and have a greater id than ``after``, in the order of their ids."""

    @abstractmethod
    def release(self, ids: Collection[int], *, at_any_version: bool) -> int:
        """Let rows that are set aside wait again; return how many of them were. It is called within a transaction.

        Args:
            ids: The rows.
            at_any_version: Whether to make ``expected_version`` and ``version`` null where there is an expected one.
        """

    @abstractmethod
    def discard(self, ids: Collection[int]) -> int:
        """Delete rows that are set aside; return how many of them were. It is called within a transaction."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection, or give it back. What is open is rolled back."""


class OutboxDatabase(ABC):
    """Where the table of an outbox is. It is frozen: any thread may use it, also in a forked child."""

    @abstractmethod
    def connect(self) -> OutboxTable:
        """Open a connection for the calling thread."""

    @abstractmethod
    def is_passing(self, error: Exception) -> bool:
        """Whether trying again may help: the database is away, or somebody else was in the way."""
