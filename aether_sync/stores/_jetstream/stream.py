"""The streams of a store: what each must be like. Who writes makes it; who reads finds it, or finds that there is none.

So a program that only reads leaves nothing on the server: no stream with settings that were only its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from ..._runtime.deadline import Deadline
from ...errors import StoreUnavailableError, StreamMismatchError
from .answers import code_of, gone, said
from .api import JetStream, Pause
from .error_codes import ErrorCode
from .names import Names

__all__ = ["Stream", "differences", "settings", "snapshot_settings", "stream_state"]

_WINDOW = 120 * 10**9  # nanoseconds in which a second try is known by its message id
_GONE = 1.0  # seconds after which a server that knows no such stream is believed
_UNLIMITED = ("max_age", "max_msgs_per_subject")  # what would take events away
_EXACT = {
    "retention": "events would be taken away by who reads them",
    "discard": "old events would make room for new ones",
    "storage": "events would be gone with the server",
    "deny_delete": "events could be deleted",
    "deny_purge": "events could be purged",
    "allow_direct": "reading would not work",
    "sealed": "nothing could be stored",
    "subject_transform": "events would be stored under other subjects",
    "no_ack": "nobody would know what is stored",
}


def settings(names: Names, replicas: int) -> dict[str, Any]:
    """What a stream of events is made with."""
    return {
        "name": names.stream,
        "subjects": [names.all_events],
        "retention": "limits",
        "discard": "new",
        "storage": "file",
        "num_replicas": replicas,
        "deny_delete": True,
        "deny_purge": True,
        "allow_direct": True,
        "allow_atomic": True,
        "duplicate_window": _WINDOW,
        "max_msgs_per_subject": -1,
        "max_age": 0,
    }


def snapshot_settings(names: Names) -> dict[str, Any]:
    """What a stream of snapshots is made with: it keeps the last of each actor."""
    return {
        "name": names.snapshots,
        "subjects": [f"{names.snapshots}.>"],
        "retention": "limits",
        "discard": "old",
        "storage": "file",
        "allow_direct": True,
        "max_msgs_per_subject": 1,
    }


class _Seen(NamedTuple):
    config: dict[str, Any]
    created: str
    epoch: tuple[int, int]  # in which it was so


class Stream:
    """A stream that a store needs; it is looked at at the first use, and again when it may be another. Any thread.

    Args:
        jetstream: Where.
        wanted: What it is made with.
        main: The stream of the events, for one that stands beside it: as many servers keep that, whatever this process
            would make the other with.
        renewed: Called when what was known of it may be so no more, with whether it is surely another stream.
    """

    def __init__(
        self,
        jetstream: JetStream,
        wanted: dict[str, Any],
        main: "Stream | None" = None,
        renewed: Callable[[bool], object] = lambda _: None,
    ) -> None:
        self._jetstream = jetstream
        self._wanted = wanted
        self._main = main
        self._renewed = renewed
        self._seen: _Seen | None = None  # replaced whole; written by any thread

    def find(self, deadline: Deadline) -> dict[str, Any] | None:
        """Return the settings that it has; None if it is not there: for who reads.

        Raises:
            StreamMismatchError: It is not as wanted.
            StoreUnavailableError: It cannot be looked at; or it was there, and is gone, which is said once.
        """
        config = self._known()
        return self._verify(deadline) if config is None else config

    def open(self, deadline: Deadline) -> dict[str, Any]:
        """Return the settings that it has; make it if it is not there: for who writes.

        Raises:
            StreamMismatchError: There is one that is not as wanted, or one that has these subjects.
            StoreUnavailableError: It cannot be made; or it was there, and is gone, which is said once.
        """
        config = self._known()
        return self.verify(deadline) if config is None else config

    def verify(self, deadline: Deadline) -> dict[str, Any]:
        """As :meth:`open`, whatever was seen before."""
        config = self._verify(deadline, self._made)
        assert config is not None
        return config

    def _known(self) -> dict[str, Any] | None:
        """The settings that were seen, if they cannot have changed since."""
        seen = self._seen
        return seen.config if seen is not None and seen.epoch == self._jetstream.epoch(self._wanted["name"]) else None

    def _verify(
        self, deadline: Deadline, make: Callable[[Deadline], dict[str, Any]] | None = None
    ) -> dict[str, Any] | None:
        """Return the settings that it has now; make it if it is not there, or return None."""
        name, before = self._wanted["name"], self._seen
        epoch = self._jetstream.epoch(name)
        answer = self._info(deadline)
        if before is not None and name not in self._jetstream.reported_gone:
            answer = self._unless_gone(answer, deadline)
        if code_of(answer) == ErrorCode.JSStreamNotFoundErr:
            if make is None:
                return None
            answer = make(deadline)
        config, created = self._checked(answer), answer["created"]
        if before is not None:
            self._renewed(before.created != created)
        self._jetstream.reported_gone.discard(name)
        doubts = self._jetstream.epoch(name)[1]  # this very look may have found it absent, and made it
        self._seen = _Seen(config, created, (epoch[0], doubts))
        return config

    def _info(self, deadline: Deadline) -> dict[str, Any]:
        return self._jetstream.request(f"STREAM.INFO.{self._wanted['name']}", {}, deadline)

    def _unless_gone(self, answer: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
        """Refuse to make a stream anew over the head of who uses it; a server that is new may not know it yet."""
        pause = Pause(Deadline(min(_GONE, deadline.remaining() / 2)))
        while code_of(answer) == ErrorCode.JSStreamNotFoundErr:
            if not pause.take():
                self._renewed(True)
                self._seen = None
                raise StoreUnavailableError(gone(self._wanted["name"]))
            answer = self._info(deadline)
        return answer

    def _made(self, deadline: Deadline) -> dict[str, Any]:
        wanted, main = self._wanted, self._main
        if main is not None:
            wanted = wanted | {"num_replicas": main.open(deadline).get("num_replicas", 1)}
        answer = self._jetstream.request(f"STREAM.CREATE.{wanted['name']}", wanted, deadline)
        if code_of(answer) == ErrorCode.JSStreamNameExistErr:  # somebody was quicker, with other settings
            answer = self._info(deadline)
        return answer

    def _checked(self, answer: dict[str, Any]) -> dict[str, Any]:
        wanted, name = self._wanted, self._wanted["name"]
        if code_of(answer) == ErrorCode.JSStreamSubjectOverlapErr:
            raise StreamMismatchError(
                f"another stream has subjects of {wanted['subjects'][0]!r}: give the store another name than {name!r}"
            )
        if "error" in answer:
            raise StoreUnavailableError(f"no stream {name!r}: {said(answer)}")
        config: dict[str, Any] = answer["config"]
        if "_nats.level" not in config.get("metadata", {}):  # since 2.11; before that there are no pages of a subject
            raise StoreUnavailableError(
                "the server is too old for a store, which wants nats-server 2.11, better 2.12 or later"
            )
        different = differences(config, wanted)
        if different:
            raise StreamMismatchError(
                f"stream {name!r} is not one for this store: {'; '.join(different)}. Change it, or use another name",
                tuple(different),
            )
        self._jetstream.limit(name, config.get("max_msg_size", -1))
        return config


def stream_state(jetstream: JetStream, name: str, deadline: Deadline) -> tuple[str, int] | None:
    """Return when a stream was made, and the sequence of its last record, by the leader's word; None if it is gone."""
    answer = jetstream.request(f"STREAM.INFO.{name}", {}, deadline)
    if code_of(answer) == ErrorCode.JSStreamNotFoundErr:
        return None
    if "error" in answer:
        raise StoreUnavailableError(f"stream {name!r} is not there: {said(answer)}")
    return answer["created"], answer["state"]["last_seq"]


def differences(config: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Say what of a stream's settings cannot be; what is merely stricter, or more than wanted, may be."""
    found = []
    if config.get("subjects") != wanted["subjects"]:
        found.append(f"subjects is {config.get('subjects')}, not {wanted['subjects']}")
    for key, consequence in _EXACT.items():
        have, want = config.get(key) or False, wanted.get(key) or False
        if have != want:
            found.append(f"{key} is {have!r}, not {want!r}: {consequence}")
    found += [
        f"{key} is {config[key]}, and must not be limited: events would be lost"
        for key in _UNLIMITED
        if config.get(key, 0) > 0 and config[key] != wanted.get(key)
    ]
    if config.get("persist_mode") == "async":
        found.append("persist_mode is 'async': events are acknowledged before they are written")
    if any(config.get("consumer_limits", {}).values()):
        found.append(f"consumer_limits is {config['consumer_limits']}: it could not be followed")
    if config.get("mirror") or config.get("sources"):
        found.append("it has a mirror or sources: it would have events that no store saved")
    have, want = config.get("num_replicas", 1), wanted.get("num_replicas", 1)
    if have < want:
        found.append(f"num_replicas is {have}, and {want} were asked for")
    if 0 < config.get("duplicate_window", 0) < wanted.get("duplicate_window", 0):
        found.append(f"duplicate_window is {config['duplicate_window'] / 1e9:g} s, not {_WINDOW / 1e9:g} s or more")
    return found
