"""What ``manage.py check`` says. It asks no server, but with ``--deploy``."""

from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured

from ..._runtime.deadline import Deadline
from ...errors import AetherError
from ._connections import make
from ._settings import aliases, problems_of, settings_of
from .registry import build_worker, registered

__all__ = ["check_handlers", "check_servers", "check_settings"]

_REACHED = 5.0  # seconds for all servers


def check_settings(**about: Any) -> list[CheckMessage]:
    """Say what is wrong with the setting ``AETHER``."""
    found = list(problems_of()) or [one for alias in aliases() for one in problems_of(alias)]
    if found:
        return [Error(one.text, hint=one.hint or None, id=f"aether.{one.number}") for one in found]
    return [Error(str(error), id="aether.E003") for error in map(_mistake, aliases()) if error is not None]


def _mistake(alias: str) -> ImproperlyConfigured | None:
    try:
        make(settings_of(alias), alias)
    except ImproperlyConfigured as error:
        return error
    return None


def check_handlers(**about: Any) -> list[CheckMessage]:
    """Say what is wrong with the handlers in the modules ``events`` of all applications."""
    if check_settings():
        return []
    unknown = [one for one in registered() if one.alias not in aliases()]
    found = [f"{one} is for AETHER[{one.alias!r}], which is not there." for one in unknown]
    found += [str(error) for alias in aliases() for error in _mistakes_of(alias)]
    return [Error(text, id="aether.E004") for text in found]


def _mistakes_of(alias: str) -> Iterator[AetherError]:
    mistakes: list[AetherError] = []
    build_worker(alias, mistakes.append)
    yield from mistakes


def check_servers(**about: Any) -> list[CheckMessage]:
    """Say which servers are not reached: this is checked with ``--deploy`` alone."""
    if check_settings():
        return []
    deadline = Deadline(_REACHED)
    found: list[CheckMessage] = []
    for alias in aliases():
        ends = make(settings_of(alias), alias)
        try:
            assert ends.connection is not None
            ends.connection.start()
            if not ends.connection.wait_connected(deadline.timeout_left()):
                reasons = "; ".join(ends.connection.health().reasons)
                found.append(Error(f"The server of AETHER[{alias!r}] is not reached: {reasons}", id="aether.E005"))
        except AetherError as error:
            found.append(Error(f"The server of AETHER[{alias!r}] is not reached: {error}", id="aether.E005"))
        finally:
            ends.close(Deadline(1.0))
    return found
