"""What the classes of users are made of, as msgspec sees them, and what it would leave out of their objects."""

from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import inspect

__all__ = ["parts_of", "unwritten_field"]


def parts_of(info: object, seen: set[int] | None = None) -> Iterator[inspect.Type]:
    """Yield a type and those that it is made of, each once."""
    seen = set() if seen is None else seen
    if isinstance(info, inspect.Type):
        if id(info) in seen:
            return
        seen.add(id(info))
        yield info
    if isinstance(info, (inspect.Type, inspect.Field)):
        for name in info.__struct_fields__:
            if name not in ("cls", "default", "default_factory"):
                yield from parts_of(getattr(info, name), seen)
    elif isinstance(info, tuple):
        for one in info:
            yield from parts_of(one, seen)


def unwritten_field(parts: Iterable[inspect.Type]) -> str | None:
    """Return what to say of a field that msgspec does not write: one of an attrs class whose name begins with ``_``."""
    for part in parts:
        cls: Any = getattr(part, "cls", None)
        for field in getattr(cls, "__attrs_attrs__", ()):
            if field.name.startswith("_"):
                return (
                    f"{field.name} of the attrs class {cls.__name__} would not be written, as its name begins with _: "
                    "rename it, or write the class as a dataclass"
                )
    return None
