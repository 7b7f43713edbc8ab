"""Properties: checks of examples that Hypothesis makes up."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .common import first_of

__all__ = ["for_all"]

Check = Callable[..., None]


def for_all(*strategies: st.SearchStrategy[Any], examples: tuple[int, int], **options: Any) -> Callable[[Check], Check]:
    """Make a test of a check: each time with few examples, and slowly with many.

    Args:
        strategies: For the last arguments of the check, as of ``given()``; those before are fixtures.
        examples: How many each time, and how many slowly.
        options: Further ones of ``settings()``.
    """

    def decorate(check: Check) -> Check:
        parameters = list(inspect.signature(check).parameters.values())

        @pytest.mark.parametrize("examples", first_of(examples))
        @wraps(check)
        def test(*instance: object, examples: int, **fixtures: Any) -> None:
            settings(max_examples=examples, deadline=None, **options)(given(*strategies)(check))(*instance, **fixtures)

        count = inspect.Parameter("examples", inspect.Parameter.KEYWORD_ONLY)
        test.__signature__ = inspect.Signature([*parameters[: -len(strategies)], count])  # type: ignore[attr-defined]
        return test

    return decorate
