"""How a value of the user's is shown in a message: briefly, even if its ``__repr__`` raises."""

import reprlib
from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import Any

__all__ = ["explained", "name_of", "short"]


class _Short(reprlib.Repr):
    """As ``reprlib.Repr``, but it does not sort dicts, and touches only what it shows of them."""

    def repr_dict(self, x: Mapping[Any, Any], level: int) -> str:
        if level <= 0:
            return "{...}"
        shown = [f"{self.repr1(k, level - 1)}: {self.repr1(v, level - 1)}" for k, v in islice(x.items(), self.maxdict)]
        return f"{{{', '.join(shown)}{', ...' if len(x) > self.maxdict else ''}}}"


_shortener = _Short()
_shortener.maxdict = 4
_shortener.maxlist = _shortener.maxtuple = 3
_shortener.maxlevel = 2
_shortener.maxstring = _shortener.maxother = 40

_LONGEST = 80  # characters of a text that is shown whole: an id, a name


def short(value: object) -> str:
    """Return a value as a message shows it: a text up to 80 characters, anything else a few dozen. Never raises."""
    if type(value) is str and len(value) <= _LONGEST:
        return repr(value)
    try:
        return _shortener.repr(value)
    except Exception:  # a __repr__ may raise anything; an int of over 4,300 digits has none
        return f"<{type(value).__name__}>"


def explained(error: BaseException, longest: int = 200) -> str:
    """Return the type and message of an error, in so many characters. Never raises, though its ``__str__`` may.

    A log or a terminal can write it: what UTF-8 cannot is escaped.
    """
    try:
        return f"{type(error).__name__}: {error}"[:longest].encode(errors="backslashreplace").decode()
    except Exception:
        return type(error).__name__


def name_of(function: object) -> str:
    """Return how a function of the user's is called in messages and metrics, such as ``shop.mails.send``. Never raises.

    It is the same in all processes that run the same program.
    """
    while type(function) is partial:
        function = function.func
    try:
        named = function if isinstance(getattr(function, "__qualname__", None), str) else type(function)
        module = getattr(named, "__module__", None)
        name = getattr(named, "__qualname__", "a handler")
        return f"{module}.{name}" if isinstance(module, str) else str(name)
    except Exception:  # of an object of the user's
        return type(function).__qualname__
