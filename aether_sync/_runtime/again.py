"""Errors that cross from one thread to others."""

from copy import copy
from typing import TypeVar

__all__ = ["again"]

E = TypeVar("E", bound=BaseException)


def again(error: E) -> E:
    """Return a copy of an error that another thread has left, for this thread to raise.

    The copy has all fields and notes of the error, and its cause and context. Its traceback is its own: raising one
    object on several threads would add the frames of all of them to one traceback.
    """
    copied = copy(error)  # by ``__reduce_ex__``: made of ``args``, then given all attributes
    if hasattr(error, "__notes__"):  # which add_note() changes
        copied.__notes__ = list(error.__notes__)
    copied.__cause__, copied.__context__ = error.__cause__, error.__context__
    copied.__suppress_context__ = error.__suppress_context__
    return copied
