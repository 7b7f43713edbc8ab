"""Durable consumers on the server: they are made or joined, refused if configured otherwise, read, and deleted."""

import json
from contextlib import suppress
from typing import Any

from ..._runtime.deadline import Deadline
from ...errors import DeadlineExceededError, StoreError, StoreUnavailableError, StreamMismatchError
from .._jetstream.answers import code_of, said
from .._jetstream.api import JetStream
from .._jetstream.error_codes import ErrorCode
from .._jetstream.names import Names
from .._jetstream.tries import Pause
from .base import ConsumerSettings, ConsumerState

__all__ = [
    "dead_letter_configuration",
    "configuration",
    "delete",
    "fetch_info",
    "fetch_state",
    "join",
    "list_states",
    "state_of",
    "wait_for",
]

_GONE = {ErrorCode.JSConsumerNotFoundErr, ErrorCode.JSStreamNotFoundErr}
_RECOVERY = 2.0  # seconds in which a server that has just started may not know a consumer yet
_ACTORS, _EVENT_TYPES = "aether.actors", "aether.event_types"  # in the metadata: what the server cannot filter
_COMPARED = {  # by name: what a setting is if the server leaves it out
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


def state_of(info: dict[str, Any]) -> ConsumerState:
    """Read the server's information on a consumer."""
    return ConsumerState(
        info["name"],
        info["delivered"]["stream_seq"],
        info["ack_floor"]["stream_seq"],
        info["num_pending"],
        info["num_ack_pending"],
        info["num_redelivered"],
    )


def configuration(names: Names, settings: ConsumerSettings) -> dict[str, Any]:
    """Return what a consumer of events is made with."""
    begin: dict[str, Any] = {"deliver_policy": "new" if settings.start is None else "all"}
    if settings.start:
        begin = {"deliver_policy": "by_start_sequence", "opt_start_seq": settings.start + 1}
    wanted = settings.wanted
    return (
        _common(settings)
        | begin
        | {
            "max_deliver": settings.max_deliver,
            "filter_subject": names.wanted(wanted.actor_pattern or None),
            "metadata": {_ACTORS: wanted.actor_pattern, _EVENT_TYPES: json.dumps(sorted(wanted.event_types))},
        }
    )


def dead_letter_configuration(names: Names, settings: ConsumerSettings) -> dict[str, Any]:
    """Return what the consumer of a consumer's dead letters is made with."""
    return _common(settings) | {
        "max_deliver": -1,
        "filter_subjects": names.dead_letter_subjects(settings.name),
        "deliver_policy": "all",
    }


def _common(settings: ConsumerSettings) -> dict[str, Any]:
    return {
        "name": settings.name,
        "durable_name": settings.name,
        "ack_policy": "explicit",
        "ack_wait": int(settings.ack_wait * 1e9),
        "max_ack_pending": settings.max_ack_pending,
    }


def join(jetstream: JetStream, stream: str, config: dict[str, Any], advice: str, deadline: Deadline) -> dict[str, Any]:
    """See that a consumer is there and configured as wanted; make it if there is none.

    Args:
        jetstream: Asks the server.
        stream: The consumer's stream.
        config: How it is to be configured.
        advice: What the error says to do if the consumer is configured otherwise.
        deadline: For all requests together.

    Returns:
        The server's information on the consumer.

    Raises:
        StreamMismatchError: The consumer is there and configured otherwise.
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


def fetch_info(jetstream: JetStream, stream: str, consumer: str, deadline: Deadline) -> dict[str, Any]:
    """Return the server's information on a consumer that should be there.

    Raises:
        StoreUnavailableError: The server cannot say.
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
            raise StoreError(f"there is no consumer {consumer!r} of stream {stream!r}: iterate() and run() make it")
        raise StoreUnavailableError(f"nothing is known of consumer {consumer!r}: {said(answer)}")


def fetch_state(jetstream: JetStream, stream: str, consumer: str, deadline: Deadline) -> ConsumerState | None:
    """Return how far a consumer is; None if there is no such consumer, or no such stream.

    Raises:
        StoreUnavailableError: The server cannot say.
    """
    answer = jetstream.request(f"CONSUMER.INFO.{stream}.{consumer}", {}, deadline)
    if code_of(answer) in _GONE:
        return None
    if "error" in answer:
        raise StoreUnavailableError(f"nothing is known of consumer {consumer!r}: {said(answer)}")
    return state_of(answer)


def list_states(jetstream: JetStream, stream: str, deadline: Deadline) -> list[ConsumerState]:
    """Return how far each durable consumer is, sorted by name."""
    durable = (one for one in jetstream.consumers(stream, deadline) if one["config"].get("durable_name"))
    return sorted(map(state_of, durable), key=lambda one: one.name)


def delete(jetstream: JetStream, stream: str, consumer: str, deadline: Deadline) -> bool:
    """Delete a consumer; returns whether it was there."""
    answer = jetstream.request(f"CONSUMER.DELETE.{stream}.{consumer}", {}, deadline)
    if "error" in answer and code_of(answer) not in _GONE:
        raise StoreUnavailableError(f"consumer {consumer!r} is not deleted: {said(answer)}")
    return "error" not in answer


def wait_for(jetstream: JetStream, names: Names, consumer: str, sequence: int, deadline: Deadline) -> None:
    """Return when a consumer has acknowledged all of its events up to a sequence.

    Raises:
        DeadlineExceededError: It had not in time; the error says how far it is.
    """
    info = fetch_info(jetstream, names.stream, consumer, deadline)
    target = _last_wanted(jetstream, names, info["config"], sequence, deadline)
    # The server does not announce acknowledgements, so it has to be asked: first soon, as most handlers are quick, then
    # after longer and longer pauses, so that waiting for a consumer that is far behind costs the server little.
    pause = Pause(deadline)
    while not _has_passed(state := state_of(info), target):
        if not pause.take():
            raise DeadlineExceededError(
                f"consumer {consumer!r} has not acknowledged event {target} within {deadline}: all up to "
                f"{state.acknowledged} is, {state.unacknowledged} events are being worked on, {state.waiting} wait"
            )
        with suppress(DeadlineExceededError):  # the error above then says how far it was
            info = fetch_info(jetstream, names.stream, consumer, deadline)


def _last_wanted(jetstream: JetStream, names: Names, config: dict[str, Any], sequence: int, deadline: Deadline) -> int:
    """Return a sequence, or the last one before it that is of the consumer's subjects.

    The leader of the stream is asked: the consumer's own server may be behind it.
    """
    wanted = config.get("filter_subjects") or [config.get("filter_subject") or names.all_events]
    records = [jetstream.last(names.stream, one, deadline) for one in wanted]
    return min(sequence, max(0 if record is None else record.sequence for record in records))


def _has_passed(state: ConsumerState, sequence: int) -> bool:
    if state.acknowledged >= sequence:
        return True
    return state.delivered >= sequence and not state.unacknowledged  # events that were given up are never acknowledged


def _differences(config: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    found = []
    for key, default in _COMPARED.items():
        have, want = config.get(key) or default, wanted.get(key) or default
        if have != want:
            scale = 1e9 if key == "ack_wait" else 0
            found.append(f"{key} is {_shown(have, scale)}, not {_shown(want, scale)}")
    has, wants = _wanted_by(config), _wanted_by(wanted)
    if has["actors"] != wants["actors"]:  # the subject follows from it
        found = [one for one in found if not one.startswith("filter_subject ")]
    return found + [f"{name} is {has[name]}, not {wants[name]}" for name in has if has[name] != wants[name]]


def _wanted_by(config: dict[str, Any]) -> dict[str, str]:
    """Return, as ``store.consumer()`` takes them, the arguments by which a consumer was made that the server ignores.

    Others may have written something else there.
    """
    noted = config.get("metadata") or {}
    types = noted.get(_EVENT_TYPES) or "[]"
    with suppress(ValueError):
        types = str(json.loads(types))
    return {"actors": repr(noted.get(_ACTORS) or None), "event_types": types}


def _shown(value: Any, scale: float) -> str:
    return f"{value / scale:g} s" if scale else repr(value)
