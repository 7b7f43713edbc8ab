"""What a projection needs of a database: :class:`Database` and :class:`Link`, which anything may implement.

The projection brings all SQL of its own, in a form that every database understands: ``?`` marks a value, and types are
``VARCHAR(n)``, ``TEXT``, ``BIGINT``. A link translates the marks into those of its driver, and runs the statement. What
differs between databases is written down here and nowhere else: how a connection is opened, how a transaction begins,
which errors pass, and how the user's function is kept from ending the transaction.

One link is used by one thread at a time, but not always by the same thread. Errors of the driver come out as they are;
the projection translates them.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol, TypeAlias

from ..base import StoredEvent

__all__ = ["Apply", "BrokenTransactionError", "Database", "Link", "Value", "is_given_up", "is_read_only", "savepoint"]

#: The user's function: what the link's ``db`` is, and the event.
Apply: TypeAlias = Callable[[Any, StoredEvent], object]

#: What goes into a statement, and comes out of a query.
Value: TypeAlias = str | int | None


class Link(Protocol):
    """A connection to the database, with at most one transaction at a time."""

    @property
    def db(self) -> Any:
        """What the user's function gets: a cursor, a session, whatever the user writes rows with."""

    @property
    def dialect(self) -> str:
        """``"sqlite"`` or ``"postgresql"``, if it is one of these: a projection can be built anew beside itself there.

        Any other word otherwise. The database may be asked for it.
        """

    def begin(self, *, rebuilding: bool = False) -> None:
        """Begin a transaction that will write. It may wait for another writer, within bounds.

        Args:
            rebuilding: Whether it will write only temporary tables, and so need not hold up another writer.
        """

    def execute(self, sql: str, *values: Value) -> int:
        """Run a statement; return how many rows it has changed."""

    def query(self, sql: str, *values: Value) -> list[tuple[Any, ...]]:
        """Run a query; return its rows. Outside of a transaction it may begin one, which ``rollback()`` ends."""

    def hold(self, *, rebuilding: bool = False) -> AbstractContextManager[None]:
        """Enter this while the user's function runs, inside of a transaction. :func:`savepoint` is all that is needed.

        Args:
            rebuilding: Whether only temporary tables may be written.

        Raises:
            BrokenTransactionError: The user's function has ended the transaction, or it was ended under it.
        """

    def commit(self) -> None:
        """End the transaction; its changes are kept, all or none."""

    def rollback(self) -> None:
        """End the transaction, if there is one; nothing of it is kept."""

    def close(self) -> None:
        """Close the connection."""


class Database(Protocol):
    """Where a projection has its rows and its checkpoint. Its text names it, without secrets. It has no connections."""

    def connect(self) -> Link:
        """Open a connection, which nobody else uses."""

    def is_passing(self, error: Exception) -> bool:
        """Whether an error of the database may be gone when the transaction is tried again, on a new connection.

        Such are a lost connection, a lock that was not got in time, a deadlock, and a failure to serialize; not a wrong
        statement, a missing table, or a broken constraint.
        """


class BrokenTransactionError(Exception):
    """The user's function has done to the transaction what it must not do; the text says what.

    Attributes:
        is_mistake: Whether it is none of one event, but would come again with others.
        is_lost: Whether nothing of the transaction can have been kept.
    """

    def __init__(self, message: str, *, is_mistake: bool = True, is_lost: bool = False) -> None:
        super().__init__(message)
        self.is_mistake = is_mistake
        self.is_lost = is_lost


_WENT_ON = "it has caught the error of a statement and gone on, in a transaction that PostgreSQL has given up"
_SAVEPOINT = "aether_events"
_ABORTED = "25P02"  # SQLSTATE in_failed_sql_transaction, of PostgreSQL
_READ_ONLY = "25006"  # read_only_sql_transaction


@contextmanager
def savepoint(link: Link, is_passing: Callable[[Exception], bool], *, rebuilding: bool = False) -> Iterator[None]:
    """Notice that the user's function has ended the transaction: the savepoint of before is gone then.

    If an exception leaves the block, what was written in it is undone, and the transaction goes on.

    Args:
        link: In whose transaction it is.
        is_passing: That of the database.
        rebuilding: As for :meth:`Link.hold`. PostgreSQL keeps other tables than temporary ones from being written
            where a transaction, or a part of it, is read-only.
    """
    link.execute(f"SAVEPOINT {_SAVEPOINT}")
    try:
        if rebuilding:
            link.execute("SET TRANSACTION READ ONLY")
        yield
        _end(link, is_passing, f"RELEASE SAVEPOINT {_SAVEPOINT}")
    except BaseException as error:
        if not isinstance(error, BrokenTransactionError) or error.is_lost:
            try:
                _end(link, is_passing, f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
            except BrokenTransactionError:
                if isinstance(error, Exception) and is_passing(error):  # SQLite rolls back by itself if a disk is full
                    raise error from None
                raise
            with suppress(Exception):  # or the next one that is there fails
                link.execute(f"RELEASE SAVEPOINT {_SAVEPOINT}")
        raise


def _end(link: Link, is_passing: Callable[[Exception], bool], sql: str) -> None:
    try:
        link.execute(sql)
    except Exception as error:
        if is_passing(error):
            raise
        if is_given_up(error):
            raise BrokenTransactionError(_WENT_ON, is_mistake=False, is_lost=True) from error
        raise BrokenTransactionError("it has committed, or rolled back") from error


def is_given_up(error: BaseException) -> bool:
    """Whether an error says that an earlier statement had failed, after which PostgreSQL takes no more of them."""
    return _has_state(error, _ABORTED)


def is_read_only(error: BaseException) -> bool:
    """Whether an error says that a table may not be written in this transaction, as PostgreSQL says in a rebuild."""
    return _has_state(error, _READ_ONLY)


def _has_state(error: BaseException, state: str) -> bool:
    of_driver = error, error.__cause__  # SQLAlchemy has an error of its own, made of the driver's
    return any(state in (getattr(one, "sqlstate", None), getattr(one, "pgcode", None)) for one in of_driver)
