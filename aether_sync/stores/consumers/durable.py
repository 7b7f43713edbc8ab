"""Durable consumers on the server: made or joined, refused if they are others, looked at, waited for."""

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..._runtime.deadline import Deadline
from ...errors import DeadlineExceededError, StoreError, StoreUnavailableError, StreamMismatchError
from ...patterns import SubscriptionFilter
from .._jetstream.api import JetStream, Pause, code_of, said
from .._jetstream.error_codes import ErrorCode
from .._jetstream.names import Names

__all__ = ["ConsumerState", "forget", "join", "listed", "look", "dead_letter_settings", "settings", "wait_for"]

_GONE = {ErrorCode.JSConsumerNotFoundErr, ErrorCode.JSStreamNotFoundErr}
_RECOVERY = 2.0  # seconds in which a server that has just started may not know it yet
_ACTORS, _EVENT_TYPES = "aether.actors", "aether.event_types"  # what the server cannot filter, and all must agree on
_ADVICE = (
    "Use the same in every process, or another name; delete_consumer() forgets the one that is there, and how far it is"
)
_COMPARED = {  # and what the server leaves out when it is not set
    "ack_policy": "none",
    "ack_wait": 0,
    "max_deliver": -1,
    "max_ack_pending": 0,
    "filter_subject": "",
    "filter_subjects": [],
    "backoff": [],
    "deliver_subject": "",
    "headers_only": False,
}


@dataclass(frozen=True, slots=True)
class ConsumerState:
    """How far a durable consumer is.

    Attributes:
        name: As it is called on the server, which is as ``consume()`` was told, escaped.
        delivered: The sequence of the last event that was delivered for the first time.
        acknowledged: The sequence up to which all is acknowledged.
        waiting: Events that were not delivered yet.
        unacknowledged: Events that were delivered, and are being worked on.
        redelivered: How many of those more than once.
    """

    name: str
    delivered: int
    acknowledged: int
    waiting: int
    unacknowledged: int
    redelivered: int

    @classmethod
    def of(cls, info: dict[str, Any]) -> "ConsumerState":
        """Read what the server says of a consumer."""
        return cls(
            info["name"],
            info["delivered"]["stream_seq"],
            info["ack_floor"]["stream_seq"],
            info["num_pending"],
            info["num_ack_pending"],
            info["num_redelivered"],
        )


def settings(
    names: Names,
    consumer: str,
    wanted: SubscriptionFilter,
    start: int | None,
    ack_wait: float,
    max_deliver: int,
    max_ack_pending: int,
) -> dict[str, Any]:
    """What a consumer of events is made with; ``start`` is the sequence to begin after, None for what comes."""
    begin: dict[str, Any] = {"deliver_policy": "new" if start is None else "all"}
    if start:
        begin = {"deliver_policy": "by_start_sequence", "opt_start_seq": start + 1}
    return (
        _common(consumer, ack_wait, max_ack_pending)
        | begin
        | {
            "max_deliver": max_deliver,
            "filter_subject": names.wanted(wanted.actor_pattern or None),
            "metadata": {_ACTORS: wanted.actor_pattern, _EVENT_TYPES: json.dumps(sorted(wanted.event_types))},
        }
    )


def dead_letter_settings(names: Names, consumer: str, ack_wait: float, max_ack_pending: int) -> dict[str, Any]:
    """What the consumer of what another one gave up is made with."""
    return _common(consumer, ack_wait, max_ack_pending) | {
        "max_deliver": -1,
        "filter_subjects": names.dead_letter_subjects(consumer),
        "deliver_policy": "all",
    }


def _common(consumer: str, ack_wait: float, max_ack_pending: int) -> dict[str, Any]:
    return {
        "name": consumer,
        "durable_name": consumer,
        "ack_policy": "explicit",
        "ack_wait": int(ack_wait * 1e9),
        "max_ack_pending": max_ack_pending,
    }


def join(
    jetstream: JetStream, stream: str, config: dict[str, Any], deadline: Deadline, advice: str = _ADVICE
) -> dict[str, Any]:
    """See that a consumer is there, as wanted; make it if there is none. Returns what the server says of it.

    Args:
        jetstream: Where.
        stream: Whose.
        config: How it is to be.
        deadline: For all questions.
        advice: What to do if it is otherwise.

    Raises:
        StreamMismatchError: There is one that is not as wanted.
        StoreUnavailableError: It cannot be made.
    """
    name = config["name"]
    answer = jetstream.request(f"CONSUMER.INFO.{stream}.{name}", {}, deadline)
    if code_of(answer) in _GONE:
        body = {"stream_name": stream, "config": config, "action": "create"}
        answer = jetstream.request(f"CONSUMER.CREATE.{stream}.{name}", body, deadline)
        if "error" in answer:  # somebody was quicker, perhaps with other settings
            made = jetstream.request(f"CONSUMER.INFO.{stream}.{name}", {}, deadline)
            answer = answer if "error" in made else made
    if "error" in answer:
        raise StoreUnavailableError(f"no consumer {name!r} of stream {stream!r}: {said(answer)}")
    different = _differences(answer["config"], config)
    if different:
        raise StreamMismatchError(
            f"there is a consumer {name!r} of stream {stream!r} with other settings: {'; '.join(different)}. {advice}",
            tuple(different),
        )
    return answer


def look(jetstream: JetStream, stream: str, consumer: str, deadline: Deadline) -> dict[str, Any]:
    """Return what the server says of a consumer that should be there.

    Raises:
        StoreUnavailableError: It says nothing.
        StoreError: There is no such consumer.
    """
    pause = Pause(Deadline(min(_RECOVERY, deadline.remaining())))
    while True:
        answer = jetstream.request(f"CONSUMER.INFO.{stream}.{consumer}", {}, deadline)
        if "error" not in answer:
            return answer
        if pause.take():
            continue
        if code_of(answer) in _GONE:
            raise StoreError(f"there is no consumer {consumer!r} of stream {stream!r}: consume() makes one")
        raise StoreUnavailableError(f"nothing is known of consumer {consumer!r}: {said(answer)}")


def listed(jetstream: JetStream, stream: str, deadline: Deadline) -> list[ConsumerState]:
    """Return how far all durable consumers are, by name."""
    durable = (one for one in jetstream.consumers(stream, deadline) if one["config"].get("durable_name"))
    return sorted(map(ConsumerState.of, durable), key=lambda one: one.name)


def forget(jetstream: JetStream, stream: str, consumer: str, deadline: Deadline) -> bool:
    """Delete a consumer; returns whether it was there."""
    answer = jetstream.request(f"CONSUMER.DELETE.{stream}.{consumer}", {}, deadline)
    if "error" in answer and code_of(answer) not in _GONE:
        raise StoreUnavailableError(f"consumer {consumer!r} is not deleted: {said(answer)}")
    return "error" not in answer


def wait_for(jetstream: JetStream, names: Names, sequence: int, consumer: str, deadline: Deadline) -> None:
    """Return when a consumer has acknowledged all of its events up to a sequence.

    Raises:
        DeadlineExceededError: It had not in time; the error says how far it is.
    """
    info = look(jetstream, names.stream, consumer, deadline)
    target = _last_wanted(jetstream, names, info["config"], sequence, deadline)
    # The server tells nobody when a consumer acknowledges: it has to be asked. First soon, as most handlers are quick,
    # then at longer pauses, so that who waits for a consumer that is far behind costs the server little.
    pause = Pause(deadline)
    while not _has_passed(state := ConsumerState.of(info), target):
        if not pause.take():
            raise DeadlineExceededError(
                f"consumer {consumer!r} has not acknowledged event {target} within {deadline}: all up to "
                f"{state.acknowledged} is, {state.unacknowledged} events are being worked on, {state.waiting} wait"
            )
        with suppress(DeadlineExceededError):  # then it is said how far it was
            info = look(jetstream, names.stream, consumer, deadline)


def _last_wanted(jetstream: JetStream, names: Names, config: dict[str, Any], sequence: int, deadline: Deadline) -> int:
    """The sequence that a consumer comes by last, of those up to one; more than that if it is sure to come by more.

    The leader of the stream knows; what the consumer's own server says of what is pending may be older.
    """
    wanted = config.get("filter_subjects") or [config.get("filter_subject") or names.all_events]
    records = [jetstream.last(names.stream, one, deadline) for one in wanted]
    return min(sequence, max(0 if record is None else record.sequence for record in records))


def _has_passed(state: ConsumerState, sequence: int) -> bool:
    if state.acknowledged >= sequence:
        return True
    return state.delivered >= sequence and not state.unacknowledged  # what was given up is never acknowledged


def _differences(config: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    found = []
    for key, default in _COMPARED.items():
        have, want = config.get(key) or default, wanted.get(key) or default
        if have != want:
            scale = 1e9 if key == "ack_wait" else 0
            found.append(f"{key} is {_shown(have, scale)}, not {_shown(want, scale)}")
    has, wants = config.get("metadata", {}), wanted.get("metadata", {})
    for key, default in ((_ACTORS, ""), (_EVENT_TYPES, "[]")):
        if has.get(key, default) != wants.get(key, default):
            name = key.rpartition(".")[2]
            found.append(f"{name} is {has.get(key, default)!r}, not {wants.get(key, default)!r}")
    return found


def _shown(value: Any, scale: float) -> str:
    return f"{value / scale:g} s" if scale else repr(value)
