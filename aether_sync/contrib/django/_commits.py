"""``publish_on_commit``: publishes when the transaction has committed, and not if it is rolled back."""

from django.db import transaction

from ..._arguments import is_of
from ..._codec.encoding import encode_and_copy
from ..._values.shown import short
from ...errors import InvalidEventError
from ...events import Event
from ...patterns import check_namespace
from ._connections import get_bus
from ._settings import DEFAULT

__all__ = ["publish_on_commit"]


def publish_on_commit(namespace: str, event: Event, *, using: str | None = None, alias: str = DEFAULT) -> None:
    """Publish an event on the bus as soon as the transaction has committed, and not at all if it is rolled back.

    Outside of a transaction it is published at once. It is at most once: if the process dies between the commit and the
    publishing, the event is lost. If the bus cannot take it then, that is logged by ``django.db.backends.base`` and
    raises nothing, as the transaction has committed. An event that must not be lost goes into the outbox instead.

    Args:
        namespace: Where to publish.
        event: What to publish, as it is now.
        using: The alias of the database; None for the default one.
        alias: That of the bus, in the setting ``AETHER``.

    Raises:
        InvalidNamespaceError: The namespace is not valid.
        InvalidEventError: It is not an Event.
        EncodingError: Its data holds a value that cannot be written as JSON.
        ImproperlyConfigured: There is no such bus.
    """
    if not is_of(event, Event):
        raise InvalidEventError(f"publish_on_commit() takes an Event, not {short(event)}")
    namespace, (_, copy) = check_namespace(namespace), encode_and_copy(event, "")
    bus = get_bus(alias)

    def publish() -> None:  # no partial(): Django wants to log its name
        bus.publish(namespace, copy)

    transaction.on_commit(publish, using=using, robust=True)
