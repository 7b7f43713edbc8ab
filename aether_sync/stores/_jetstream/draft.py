"""``Draft``: the messages of a save before it is published, and what is known of its events afterwards."""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b

from ...events import Event
from ..base import StoredEvent
from .cache import Known
from .earlier import Earlier
from .messages import Outgoing

__all__ = ["Draft", "message_of"]


def message_of(data: bytes, event: Event, subject: str, known: Known, refusals: int) -> tuple[Outgoing, Earlier]:
    """Return the message of an event that follows what is known of its actor, and what it names.

    Args:
        data: The event's JSON.
        event: The event.
        subject: The subject of its actor.
        known: What is known of its actor.
        refusals: How many attempts were refused without a visible reason.
    """
    earlier = known.to_name
    behind = None if known.torn is None else known.sequence
    message_id = _message_id(subject, event, known, refusals)
    return Outgoing(subject, message_id, known.end, data, behind, earlier.text), earlier


class Draft:
    """The messages of one attempt to store events.

    Args:
        encoded: The events in order, each behind its JSON.
        subjects: The subjects of their actors.
        tails: What is known of their actors.
        refusals: How many attempts were refused without a visible reason.

    Attributes:
        messages: The messages in order.
    """

    def __init__(
        self,
        encoded: Sequence[tuple[bytes, Event]],
        subjects: Mapping[str, str],
        tails: Mapping[str, Known],
        refusals: int,
    ) -> None:
        self._encoded = encoded
        self._ends: dict[str, tuple[Earlier, int]] = {}  # by actor: what its last event here names, and its place
        self.messages: list[Outgoing] = []
        for place, (data, event) in enumerate(encoded, 1):
            actor_id = event.actor_id
            subject, known = subjects[actor_id], tails[actor_id]
            if actor_id in self._ends:  # only an actor's first event in a batch may expect a sequence
                before, at = self._ends[actor_id]
                earlier = before.after_place(at)
                message_id = _message_id(subject, event, known, refusals)
                message = Outgoing(subject, message_id, None, data, None, earlier.text)
            else:
                message, earlier = message_of(data, event, subject, known, refusals)
            self.messages.append(message)
            self._ends[actor_id] = earlier, place

    def drop_hints(self) -> bool:
        """Have the messages name no earlier events, which makes them shorter; returns whether any has named some."""
        has_some = any(one.earlier for one in self.messages)
        self.messages = [one._replace(earlier=b"") for one in self.messages]
        return has_some

    def stored(self, first: int) -> list[StoredEvent]:
        """Return the events as they are stored, from a sequence on."""
        last = first + len(self._encoded) - 1
        batch = first if last > first else 0
        return [
            StoredEvent(event, sequence, False, sequence == last, batch)
            for sequence, (_, event) in enumerate(self._encoded, first)
        ]

    def ends(self, first: int) -> Iterator[tuple[str, int, int, Earlier]]:
        """Yield each actor, with the version and the sequence of its last event, and what that names.

        Args:
            first: The sequence of the first event.
        """
        for actor_id, (earlier, place) in self._ends.items():
            event = self._encoded[place - 1][1]
            yield actor_id, event.version, first + place - 1, earlier.settled(first)

    def rows(self, stored: Sequence[StoredEvent]) -> Iterator[tuple[str, list[StoredEvent], list[bytes]]]:
        """Yield each actor, with its events as they are stored, and their JSON."""
        rows: dict[str, tuple[list[StoredEvent], list[bytes]]] = {}
        for one, (data, event) in zip(stored, self._encoded, strict=True):
            events, written = rows.setdefault(event.actor_id, ([], []))
            events.append(one)
            written.append(data)
        return ((actor_id, events, written) for actor_id, (events, written) in rows.items())


def _message_id(subject: str, event: Event, known: Known, refusals: int) -> str:
    """Return the message id of an event, by which the server recognises a second attempt.

    Message ids are unique in the whole stream, so it is made of the actor and the version, too. If an earlier attempt
    has left a part, the server knows the ids of that: then other ids are taken. That only one of several attempts is
    stored is due to the expected sequence of the actor's last record.
    """
    of = f"{subject}\n{event.version}\n{event.id}"
    if known.torn is not None:
        of = f"{of}\n{known.end}/{refusals}"
    elif refusals:
        of = f"{of}\n{refusals}"
    return blake2b(of.encode(), digest_size=16).hexdigest()
