"""Checks of arguments that several rooms make."""

import math

from .errors import InvalidOptionError

__all__ = ["check_count", "check_seconds"]


def check_count(name: str, value: int) -> None:
    """Refuse a bound that is no whole number of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidOptionError(f"{name} must be a whole number, 1 or more, not {value!r}")


def check_seconds(name: str, value: float) -> None:
    """Refuse a time span that is no finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise InvalidOptionError(f"{name} must be seconds, more than 0, not {value!r}")
