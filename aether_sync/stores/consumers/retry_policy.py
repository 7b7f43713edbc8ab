"""``RetryPolicy``: when an event whose handler has failed is tried again, and after which errors."""

from collections.abc import Iterable
from dataclasses import dataclass
from random import random

from ..._arguments import as_iterator, as_seconds, check_seconds, is_of
from ..._values.shown import short
from ...errors import InvalidOptionError

__all__ = ["RetryPolicy", "check_retry", "doubling", "is_final", "pause_after"]

_LONGEST_PAUSE = 60.0  # seconds, up to which pauses double
_DOUBLINGS = 60


@dataclass(frozen=True, slots=True, init=False)
class RetryPolicy:
    """When an event whose handler has failed is tried again, and after which errors it is given up at once.

    How often it is tried is said by ``max_deliver`` of the consumer, which all processes share. A policy is each
    process's own.

    Attributes:
        delays: Seconds before the second attempt, the third, and so on; the last one holds for all that follow.
        jitter: By which share a pause is longer at most, at random: so events that failed together, as a service was
            away, do not all come back together.
        only: The classes of errors after which an event is tried again; none for all.
        never: The classes of errors after which it is not: it becomes a dead letter at once.
    """

    delays: tuple[float, ...]
    jitter: float
    only: tuple[type[BaseException], ...]
    never: tuple[type[BaseException], ...]

    def __init__(
        self,
        delays: Iterable[float] = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0),
        *,
        jitter: float = 0.1,
        only: Iterable[type[BaseException]] = (),
        never: Iterable[type[BaseException]] = (),
    ) -> None:
        """Make a policy.

        Args:
            delays: As the attribute; one or more.
            jitter: As the attribute, from 0 to 1.
            only: As the attribute.
            never: As the attribute; it goes before ``only``.

        Raises:
            InvalidOptionError: An argument is wrong.
        """
        iterator = as_iterator(delays)
        seconds = () if iterator is None else tuple(check_seconds("each of delays", one) for one in iterator)
        if not seconds:
            raise InvalidOptionError(f"delays are seconds, such as (1, 10, 60), not {short(delays)}")
        share = as_seconds(jitter)
        if share is None or not 0 <= share <= 1:
            raise InvalidOptionError(f"jitter must be a number from 0 to 1, not {short(jitter)}")
        object.__setattr__(self, "delays", seconds)
        object.__setattr__(self, "jitter", share)
        object.__setattr__(self, "only", _errors("only", only))
        object.__setattr__(self, "never", _errors("never", never))


def doubling(first: float) -> RetryPolicy:
    """Return a policy whose pauses double up to a minute. One that begins above that stays as it is."""
    longest = max(first, _LONGEST_PAUSE)
    pauses = [min(first * 2**exponent, longest) for exponent in range(_DOUBLINGS)]
    return RetryPolicy(dict.fromkeys(pauses), jitter=0.0)


def pause_after(policy: RetryPolicy, failures: int) -> float:
    """Return the seconds until an event is tried again that has failed so many times, 1 or more."""
    pause = policy.delays[min(failures, len(policy.delays)) - 1]
    return pause * (1 + policy.jitter * random()) if policy.jitter else pause


def is_final(policy: RetryPolicy, error: BaseException) -> bool:
    """Whether an event is not tried again after an error."""
    kind = type(error)
    return issubclass(kind, policy.never) or (bool(policy.only) and not issubclass(kind, policy.only))


def check_retry(retry_delay: object) -> RetryPolicy:
    """Return the policy that ``retry_delay`` stands for: seconds, or a policy."""
    if is_of(retry_delay, RetryPolicy):
        return retry_delay
    try:
        return doubling(check_seconds("retry_delay", retry_delay))
    except InvalidOptionError as error:
        raise InvalidOptionError(f"{error}; or a RetryPolicy") from None


def _errors(name: str, given: Iterable[type[BaseException]]) -> tuple[type[BaseException], ...]:
    iterator = None if is_of(given, type) else as_iterator(given)
    found = None if iterator is None else tuple(iterator)
    if found is None or not all(is_of(one, type) and issubclass(one, BaseException) for one in found):
        raise InvalidOptionError(f"{name} takes classes of errors, such as (TimeoutError,), not {short(given)}")
    return found
