"""The rights that a bus and a store need, by what is done with them, and the trial whether this user has them.

A right has a subject, which may have wildcards: what an operator grants. For a publish, the subject that is tried has
a word in the place of each wildcard. ``guide/security.md`` has the same rights for readers.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from ..._nats.channel import Channel
from ..._runtime.deadline import Deadline
from ...patterns import Pattern, subject_of
from .._jetstream.names import Names

__all__ = ["Right", "Tried", "Use", "try_all", "uses_of_bus", "uses_of_store"]

_WORD = "aether-doctor"  # in the place of a wildcard, in what is published
_ANSWERS = "_INBOX.>"  # where a server sends its answers
_AN_INBOX = "_INBOX.aether-doctor.*"  # as a connection subscribes to it


class Right(NamedTuple):
    """A right to publish, or to subscribe, to a subject."""

    verb: Literal["publish", "subscribe"]
    subject: str  # to be granted
    tried: str  # in its place


class Use(NamedTuple):
    """Something that is done with a bus or a store, and the rights for it."""

    what: str  # as in "to <what>, it may not ..."
    rights: tuple[Right, ...]
    is_vital: bool = False  # without it, nothing works that the doctor was asked about


class Tried(NamedTuple):
    """The trial of a use."""

    use: Use
    refused: tuple[Right, ...]  # those of its rights that the user has not


def _publish(subject: str, tried: str | None = None) -> Right:
    if tried is None:
        tried = ".".join(_WORD if token in ("*", ">") else token for token in subject.split("."))
    return Right("publish", subject, tried)


def uses_of_bus(prefix: str, patterns: Iterable[str] | None) -> list[Use]:
    """Return what is done with a bus.

    Args:
        prefix: Its prefix.
        patterns: The patterns that its programs subscribe to, and publish under; None if they are not known: then
            nothing is vital.
    """
    uses = []
    for text in patterns or (">",):
        subject = subject_of(prefix, Pattern.parse(text).subject_pattern)
        uses += [
            Use(f"publish to {text!r} on the bus", (_publish(subject),), patterns is not None),
            Use(f"subscribe to {text!r} on the bus", (Right("subscribe", subject, subject),), patterns is not None),
        ]
    return uses


def uses_of_store(names: Names, *, makes: bool) -> list[Use]:
    """Return what is done with a store.

    Args:
        names: Its names.
        makes: Whether its stream has still to be made.
    """
    events, snapshots, letters = names.stream, names.snapshots, names.dead_letters
    api = "$JS.API"
    uses = [
        Use("get answers from JetStream", (Right("subscribe", _ANSWERS, _AN_INBOX),), is_vital=True),
        Use("read events", tuple(map(_publish, _reading(events))), is_vital=True),
        Use("load snapshots", tuple(map(_publish, _reading(snapshots)))),
        Use("save events", (_publish(names.all_events, f"{events}.events.{_WORD}.{_WORD}"),)),
        Use("save snapshots", (_publish(f"{snapshots}.>", f"{snapshots}.{_WORD}.{_WORD}"),)),
        Use(
            "follow the store",
            (
                *(
                    _publish(f"{api}.CONSUMER.*.{events}.*", f"{api}.CONSUMER.{verb}.{events}.{_WORD}")
                    for verb in ("CREATE", "INFO", "DELETE")
                ),
                _publish(f"{api}.CONSUMER.MSG.NEXT.{events}.*"),
            ),
        ),
        Use(
            "run durable consumers",
            (
                _publish(f"$JS.ACK.{events}.>", f"$JS.ACK.{events}.{_WORD}.1.1.1.1.0"),
                _publish(f"{api}.STREAM.INFO.{letters}"),
                _publish(f"{letters}.>"),
            ),
        ),
        Use("list consumers", (_publish(f"{api}.CONSUMER.LIST.{events}"),)),
        Use("read dead letters", tuple(map(_publish, _reading(letters)))),
        Use("discard dead letters", (_publish(f"{api}.STREAM.MSG.DELETE.{letters}"),)),
    ]
    if makes:
        uses.insert(2, Use("make the stream, which is not there yet", (_publish(f"{api}.STREAM.CREATE.{events}"),)))
    return uses


def _reading(stream: str) -> tuple[str, ...]:
    verbs = ("STREAM.INFO", "STREAM.MSG.GET", "DIRECT.GET")
    return tuple(f"$JS.API.{verb}.{stream}" for verb in verbs)


def try_all(channel: Channel, uses: Iterable[Use], deadline: Deadline) -> list[Tried]:
    """Try all rights of some uses. Nobody gets a message; the server notes the refusals in its log.

    Raises:
        DeadlineExceededError: The server has not answered in time.
        DisconnectedError: The connection broke meanwhile.
    """
    uses = list(uses)
    rights = [right for use in uses for right in use.rights]
    may = {
        "publish": channel.may_publish({one.tried: None for one in rights if one.verb == "publish"}, deadline),
        "subscribe": channel.may_subscribe({one.tried: None for one in rights if one.verb == "subscribe"}, deadline),
    }
    return [Tried(use, tuple(one for one in use.rights if not may[one.verb][one.tried])) for use in uses]
