"""``Listeners``: the callbacks that ``on()`` registers. The reporter's thread calls them, behind the log records.

A connection has one ``Listeners``, and so has each bus. Those of the buses on a connection stand *below* that of the
connection: what happens to the connection is told to all of them, and what a bus drops is told to the connection's.

Any thread tells, the loop thread and finalizers included, and any thread adds and removes, a callback included. Nothing
here takes a lock: the list of callbacks is changed and copied by single operations. A callback that is added while
something happens may be told of that, or not. Only the end must never be missed, so it is noted first and told then,
and whoever adds callbacks looks afterwards whether it is noted. Each ``on()`` is told of it by the one call that takes
the only item of a list.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, get_args

from .._arguments import check_callback, check_known
from ..errors import InvalidOptionError
from ..metrics import CloseReport
from ..notices import Notice, NoticeCallback, NoticeKind
from .registry import WeakRegistry
from .reporter import Reporter

__all__ = ["Listeners"]


class _Listener:
    """The callbacks of one ``on()``, by the kind of notice that each is called with."""

    __slots__ = ("_callbacks", "_ends")

    def __init__(self, callbacks: Mapping[str, NoticeCallback]) -> None:
        self._callbacks = callbacks
        self._ends = [True]  # taken by the call that tells it of the end

    def wants(self, kind: NoticeKind) -> bool:
        """Whether it has a callback for notices of a kind, and may still be called with one."""
        return kind in self._callbacks and bool(self._ends)

    def call(self, notice: Notice) -> None:
        """Call the callback, unless it was taken off meanwhile, or these were told of the end.

        It may be taken off between the look and the call: only a lock around user code could prevent that.
        """
        callback = self._callbacks.get(notice.kind)
        if callback is not None and (self._take_end() if notice.kind == "closed" else self._ends):
            callback(notice)

    def _take_end(self) -> bool:
        try:
            return self._ends.pop()
        except IndexError:
            return False

    def forget(self) -> None:
        """Call none of them any more."""
        self._callbacks = {}


class Listeners:
    """The callbacks for one connection or bus. In a forked child they stay, and are told what happens there.

    Args:
        reporter: Its thread calls them.
        url: The servers, without secrets, for the notices.
        above: Those of the connection, if these are of a bus on it.

    Attributes:
        url: As given.
    """

    __slots__ = ("__weakref__", "_above", "_all", "_below", "_end", "_reporter", "url")

    def __init__(self, reporter: Reporter, url: str = "", above: "Listeners | None" = None) -> None:
        self._reporter = reporter
        self.url = url
        self._above = above
        self._below: WeakRegistry[Listeners] = WeakRegistry()
        self._all: list[_Listener] = []
        self._end: Notice | None = None  # once it has come
        if above is not None:
            above._below.add(self)
            if above._end is not None:  # looked at last, as in add()
                self._end = above._end

    def add(self, **callbacks: NoticeCallback | None) -> Callable[[], None]:
        """Add callbacks; returns a function that takes them off again.

        Args:
            **callbacks: By the kind of notice; those that are None are left out.

        Raises:
            InvalidOptionError: One of them cannot be called with a notice, or returns what nobody would run; there is
                no such kind; or there is no callback.
        """
        listener = _Listener(_checked(callbacks))
        self._all.append(listener)
        if self._end is not None:
            self._put(listener, self._end)
        return partial(self._remove, listener)

    def _remove(self, listener: _Listener) -> None:
        listener.forget()
        with suppress(ValueError):  # it was removed already
            self._all.remove(listener)

    def tell(self, kind: NoticeKind, **fields: Any) -> None:
        """Tell what happened to the connection, to these and to those below.

        Args:
            kind: What happened.
            **fields: Of the notice.
        """
        for one in (self, *self._below):
            one._tell(kind, fields)

    def tell_above(self, kind: NoticeKind, **fields: Any) -> None:
        """Tell what happened to a bus, to these and to those of its connection."""
        self._tell(kind, fields)
        if self._above is not None:
            self._above._tell(kind, fields)

    def end(self, report: CloseReport | None, reason: str = "") -> None:
        """Tell the end, to these and to those below; nothing is told after it. Idempotent.

        Args:
            report: What closing has left undone; None if nobody knows.
            reason: Why it came, if nobody has closed the connection.
        """
        counts = {} if report is None else _counts(report)
        reason = reason or ("closing left something undone" if report is not None and not report else "")
        for one in (self, *self._below):
            one._conclude(Notice(kind="closed", url=self.url, reason=reason, counts=counts))

    def _conclude(self, notice: Notice) -> None:
        if self._end is None:
            self._end = notice
        for listener in list(self._all):  # also at a second time, if an exception ended the first one
            self._put(listener, self._end)

    def _tell(self, kind: NoticeKind, fields: Mapping[str, Any]) -> None:
        if self._all and self._end is None:
            notice = Notice(kind=kind, url=self.url, **fields)
            for listener in list(self._all):
                self._put(listener, notice)

    def _put(self, listener: _Listener, notice: Notice) -> None:
        if listener.wants(notice.kind):
            self._reporter.call(listener.call, notice)


def _counts(report: CloseReport) -> dict[str, int]:
    counts = {"unsent": report.unsent, "uncertain": report.uncertain, "rejected": report.rejected}
    return {name: count for name, count in counts.items() if count}


def _checked(callbacks: Mapping[str, NoticeCallback | None]) -> dict[str, NoticeCallback]:
    check_known("on() has no callback", callbacks, get_args(NoticeKind))
    wanted = {kind: one for kind, one in callbacks.items() if one is not None}
    if not wanted:
        raise InvalidOptionError(f"on() takes callbacks: {', '.join(f'{kind}=' for kind in callbacks)}")
    for kind, one in wanted.items():
        check_callback(kind, one, "a Notice")
    return wanted
