"""``extra()``: says in one sentence which extra is to be installed, where a bridge lacks the package that it is to."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["extra"]


@contextmanager
def extra(bridge: str, package: str, called: str) -> Iterator[None]:
    """Import a package in this block, before the bridge to it is imported.

    Args:
        bridge: The bridge's module, whose last name is that of the extra.
        package: The package that is imported.
        called: What people call it.

    Raises:
        ModuleNotFoundError: It is not installed. Where a package that it needs itself is not there, that error comes.
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        if missing.name != package:
            raise
        name = bridge.rpartition(".")[2]
        raise ModuleNotFoundError(
            f"{bridge} needs {called}: install the extra {name!r} of aether-sync", name=package
        ) from missing
