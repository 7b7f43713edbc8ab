"""What got slower since an earlier run, judged by ratios, so that the two may come from different machines."""

from collections.abc import Iterator

from .cases import FIGURES
from .report import Ratio, Report, Spread

__all__ = ["slower"]

_NOTICEABLE = 0.05  # as a share: less than that is no news

_Key = tuple[str, str, tuple[str, ...]]  # case, figure, what it is compared with


def slower(report: Report, earlier: Report) -> Iterator[str]:
    """Say which ratios of ours are worse than they were: by more than the noise of both runs, and noticeably."""
    before = dict(_ratios(earlier))
    for key, ratio in _ratios(report):
        was = before.get(key)
        if was is not None and _is_worse(ratio.value, was.value, is_rate=FIGURES[ratio.key].is_rate):
            what = f"{key[0]}: {FIGURES[ratio.key].label} to {ratio.called}"
            yield f"{what}: {_text(was.value)}, now {_text(ratio.value)}"


def _ratios(report: Report) -> Iterator[tuple[_Key, Ratio]]:
    for table in report.tables:
        for row in table.rows:
            if row.is_ours:
                yield from (((row.case, ratio.key, ratio.to), ratio) for ratio in row.ratios)


def _is_worse(now: Spread, was: Spread, *, is_rate: bool) -> bool:
    """Whether even the best round now is worse than the worst round then, and the medians differ noticeably."""
    if is_rate:
        return now.high < was.low and now.median < was.median * (1 - _NOTICEABLE)
    return now.low > was.high and now.median > was.median * (1 + _NOTICEABLE)


def _text(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f}-{spread.high:.2f})"
