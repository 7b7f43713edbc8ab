"""The words of the semantic conventions for messaging, and names of destinations that are few enough for them.

Source: https://opentelemetry.io/docs/specs/semconv/messaging/, status "Development", in which a producer's operation is
``send`` and the spans of ``receive`` and ``settle`` are of kind CLIENT.
"""

from collections.abc import Iterable
from typing import NamedTuple

from ..._arguments import as_iterator, is_of
from ..._values.shown import short
from ...errors import InvalidNamespaceError, InvalidOptionError
from ...instrumentation import Operation
from ...patterns import Pattern

__all__ = ["DURATION_BOUNDS", "SCHEMA_URL", "SYSTEM", "Destination", "Destinations"]

SCHEMA_URL = "https://opentelemetry.io/schemas/1.37.0"
SYSTEM = "nats"  #: ``messaging.system``; also where an ``EventBus`` or ``InMemoryEventStore`` stands in for NATS
DURATION_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)  #: seconds

_NAMES_KEPT = 100  # distinct destinations that are named; a later one is not, unless a template names it
_FOUND_KEPT = 1_000  # destinations whose template is remembered; then all are looked up again


class Destination(NamedTuple):
    """What an operation is done with, in the words of the conventions; "" where there is nothing to say.

    Attributes:
        template: ``messaging.destination.template``.
        name: ``messaging.destination.name``, of any number of values: for spans alone.
        few: The name, if there is no template, and it is one of few.
        group: ``messaging.consumer.group.name``, if it is one of few.
    """

    template: str
    name: str
    few: str
    group: str

    @property
    def label(self) -> str:
        """What names the destination in a span's name."""
        return self.template or self.few


class Destinations:
    """Finds the destination of an operation. Any thread may call it.

    Accepted race: two threads that meet the last free places at once may both take one, so a few more names than
    ``_NAMES_KEPT`` are kept.

    Args:
        templates: Patterns of namespaces, or of names of streams. A destination that matches one is named by the first
            one that it matches.

    Raises:
        InvalidOptionError: One is not a pattern.
    """

    def __init__(self, templates: Iterable[str] = ()) -> None:
        given = None if is_of(templates, str) else as_iterator(templates)
        if given is None:
            raise InvalidOptionError(
                f"destination_templates are patterns such as ('tenant-*.orders',), not {short(templates)}"
            )
        try:
            self._templates = [Pattern.parse(one) for one in given]
        except InvalidNamespaceError as error:
            raise InvalidOptionError(f"destination_templates has one that is no pattern: {error}") from error
        self._names: dict[str, None] = {}
        self._groups: dict[str, None] = {}
        self._found: dict[str, str] = {}

    def of(self, operation: Operation) -> Destination:
        """Return the destination of an operation."""
        name = operation.destination
        template = self._template(name) if name else ""
        if not template and any(one in operation.pattern for one in "*>,"):  # else it is the name
            template = self._few(operation.pattern)
        return Destination(
            template, name, "" if template else self._few(name), self._few_of(self._groups, operation.consumer)
        )

    def _template(self, name: str) -> str:
        """Return the template that a name matches; "" if it matches none."""
        found = self._found.get(name)
        if found is None:
            found = next((one.text for one in self._templates if one.matches(name)), "")
            if len(self._found) >= _FOUND_KEPT:
                self._found = {}
            self._found[name] = found
        return found

    def _few(self, name: str) -> str:
        return self._few_of(self._names, name)

    @staticmethod
    def _few_of(names: dict[str, None], name: str) -> str:
        """Return a name if it is one of the first ones; else ""."""
        if name in names:
            return name
        if not name or len(names) >= _NAMES_KEPT:
            return ""
        names[name] = None
        return name
