"""What a histogram says of its times."""

import math
from fractions import Fraction
from typing import Any

import pytest

from aether_sync import Histogram, InvalidOptionError
from aether_sync._values.counting import Times
from aether_sync.metrics import BOUNDS, histogram_of


def histogram(*times: float) -> Histogram:
    counted = Times(BOUNDS)
    for one in times:
        counted.add(one)
    return histogram_of(counted)


def test_the_mean() -> None:
    assert histogram(0.002, 0.004, 0.006).mean == pytest.approx(0.004)
    assert Histogram().mean == 0


def test_a_quantile_is_in_the_range_of_the_true_one() -> None:
    times = [0.000_07 * 1.05**n for n in range(250)]  # up to 13 s
    seconds = histogram(*times)
    for percent in range(1, 101):
        true = times[math.ceil(len(times) * percent / 100) - 1]
        found = seconds.quantile(percent / 100)
        upper = next(one for one in BOUNDS if one >= true)
        lower = max([0.0, *(one for one in BOUNDS if one < true)])
        assert lower <= found <= upper
        assert true < BOUNDS[0] or 1 / 3 <= found / true <= 3


def test_a_quantile_within_a_range() -> None:
    seconds = Histogram(bounds=(1.0, 2.0), counts=(0, 4, 0), sum=6.0)
    assert [seconds.quantile(q) for q in (0, 0.25, 0.5, 1)] == [1.0, 1.25, 1.5, 2.0]
    assert seconds.quantile(Fraction(1, 2)) == 1.5  # type: ignore[arg-type]


def test_a_quantile_above_the_last_bound_is_that_bound() -> None:
    assert histogram(100.0).quantile(0.5) == BOUNDS[-1]
    assert Histogram().quantile(0.99) == 0


@pytest.mark.parametrize("q", [-0.1, 1.1, 99, "0.5", None, math.nan, True])
def test_a_wrong_share_is_named(q: Any) -> None:
    with pytest.raises(InvalidOptionError, match="q must be a number from 0 to 1"):
        histogram(1.0).quantile(q)


def test_it_is_shown_in_short() -> None:
    assert repr(Histogram()) == "Histogram(count=0)"
    seconds = Histogram(bounds=(1.0, 2.0), counts=(0, 4, 0), sum=6.0)
    assert repr(seconds) == "Histogram(count=4, mean=1.5, p50=1.5, p99=1.99)"
