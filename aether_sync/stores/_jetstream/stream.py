"""``Stream``: a stream of a store, and the settings that it must have. Writing makes it, reading does not.

So a program that only reads leaves nothing on the server, and no stream gets the settings of a program that reads.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from ..._runtime.deadline import Deadline
from ...errors import AetherError, StoreError, StoreUnavailableError, StreamMismatchError
from .answers import code_of, gone, said
from .api import JetStream
from .error_codes import ErrorCode
from .names import Names
from .tries import Pause

__all__ = ["Stream", "differences", "settings", "snapshot_settings", "stream_state"]

_WINDOW = 120 * 10**9  # nanoseconds in which the server knows a second attempt by its message id
_GONE = 1.0  # seconds after which a server is believed that it has no such stream
_UNLIMITED = ("max_age", "max_msgs_per_subject")  # limits that would remove events
_EXACT = {  # by setting: what is wrong if it is another one
    "retention": "events would be removed when they are read",
    "discard": "old events would make room for new ones",
    "storage": "events would be gone with the server",
    "deny_delete": "events could be deleted",
    "deny_purge": "events could be purged",
    "allow_direct": "reading would not work",
    "sealed": "nothing could be stored",
    "subject_transform": "events would be stored under other subjects",
    "no_ack": "nobody would know what is stored",
}


#: How many servers may keep a stream: nats-server refuses more.
MAX_REPLICAS = 5


def settings(names: Names, replicas: int) -> dict[str, Any]:
    """Return the settings of a stream of events."""
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


def snapshot_settings(names: Names, kept: int) -> dict[str, Any]:
    """Return the settings of a stream of snapshots, which keeps the last ones of each actor, so many."""
    return {
        "name": names.snapshots,
        "subjects": [f"{names.snapshots}.>"],
        "retention": "limits",
        "discard": "old",
        "storage": "file",
        "allow_direct": True,
        "max_msgs_per_subject": kept,
    }


class _Seen(NamedTuple):
    config: dict[str, Any]
    created: str
    epoch: tuple[int, int]  # JetStream.epoch() at that moment


class Stream:
    """A stream that a store needs. Its settings are checked at the first use, and again when they may have changed.

    Any thread may call it.

    Args:
        jetstream: Puts requests to the server.
        wanted: The settings with which it is made.
        main: The stream of the events, if this is one beside it: it is kept by as many servers as that one.
        renewed: Called when the stream may be another one than before, with whether it certainly is.
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
        """Return the settings of the stream; None if it is not there. For reading.

        Raises:
            StreamMismatchError: It has other settings than wanted.
            StoreUnavailableError: The server cannot say; or the stream was there and is gone, which is raised once.
        """
        config = self._known()
        return self._verify(deadline) if config is None else config

    def open(self, deadline: Deadline) -> dict[str, Any]:
        """Return the settings of the stream; make it if it is not there. For writing.

        Raises:
            StreamMismatchError: It has other settings than wanted, or another stream has its subjects.
            StoreUnavailableError: It cannot be made; or the stream was there and is gone, which is raised once.
        """
        config = self._known()
        return self.verify(deadline) if config is None else config

    def verify(self, deadline: Deadline) -> dict[str, Any]:
        """As :meth:`open`, but always ask the server."""
        config = self._verify(deadline, self._made)
        assert config is not None
        return config

    @property
    def name(self) -> str:
        """Its name on the server."""
        name: str = self._wanted["name"]
        return name

    @property
    def was_seen(self) -> bool:
        """Whether it was there when it was looked at last."""
        return self._seen is not None

    def ask(self, deadline: Deadline) -> dict[str, Any]:
        """Return what the server says of it, or the error that it answers. Nothing is concluded from that here."""
        return self._info(deadline)

    def _known(self) -> dict[str, Any] | None:
        """Return the settings that were read, if they cannot have changed since; else None."""
        seen = self._seen
        return seen.config if seen is not None and seen.epoch == self._jetstream.epoch(self._wanted["name"]) else None

    def _verify(
        self, deadline: Deadline, make: Callable[[Deadline], dict[str, Any]] | None = None
    ) -> dict[str, Any] | None:
        """Ask for the settings. If the stream is not there, call ``make``, or return None without it."""
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
        doubts = self._jetstream.epoch(name)[1]  # of now: that the stream was missing above is no later sign
        self._seen = _Seen(config, created, (epoch[0], doubts))
        return config

    def _info(self, deadline: Deadline) -> dict[str, Any]:
        return self._jetstream.request(f"STREAM.INFO.{self._wanted['name']}", {}, deadline)

    def _unless_gone(self, answer: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
        """Raise an error if a stream that was there is gone: the user has to know before it is made again, empty.

        A server that has just started may not know the stream yet, so it is asked for a moment.
        """
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
        if code_of(answer) == ErrorCode.JSStreamNameExistErr:  # another process was quicker, with other settings
            answer = self._info(deadline)
        if code_of(answer) == ErrorCode.JSStreamSubjectOverlapErr:
            raise StreamMismatchError(
                f"{self._overlapping(deadline)} has subjects of {wanted['subjects'][0]!r}, so stream {wanted['name']!r}"
                " cannot be made: delete that one if nobody needs it any more, or give the store another name"
            )
        return answer

    def _overlapping(self, deadline: Deadline) -> str:
        """Return the name of a stream that has subjects of this one, as far as the user may know it."""
        with suppress(AetherError):
            for subject in self._wanted["subjects"]:
                answer = self._jetstream.request("STREAM.NAMES", {"subject": subject}, deadline)
                for name in answer.get("streams") or ():
                    return f"stream {name!r}"
        return "another stream"

    def _checked(self, answer: dict[str, Any]) -> dict[str, Any]:
        name = self._wanted["name"]
        if "error" in answer:
            raise StoreUnavailableError(f"no stream {name!r}: {said(answer)}")
        config: dict[str, Any] = answer["config"]
        mismatch = self.mismatch(config)
        if mismatch is not None:
            raise mismatch
        self._jetstream.limit(name, config.get("max_msg_size", -1))
        return config

    def mismatch(self, config: dict[str, Any]) -> StoreError | None:
        """Return the error with which every use fails if the stream has these settings; None if they are right."""
        if "_nats.level" not in config.get("metadata", {}):  # older servers cannot return pages of a subject
            return StoreUnavailableError(
                "the server is too old for a store, which wants nats-server 2.11, better 2.12.1 or later"
            )
        different = differences(config, self._wanted)
        if not different:
            return None
        return StreamMismatchError(
            f"stream {self.name!r} is not one for this store: {'; '.join(different)}. Change it, or use another name",
            tuple(different),
        )


def stream_state(jetstream: JetStream, name: str, deadline: Deadline) -> tuple[str, int] | None:
    """Return when a stream was made, and the sequence of its last record, from the leader; None if it is gone."""
    answer = jetstream.request(f"STREAM.INFO.{name}", {}, deadline)
    if code_of(answer) == ErrorCode.JSStreamNotFoundErr:
        return None
    if "error" in answer:
        raise StoreUnavailableError(f"stream {name!r} is not there: {said(answer)}")
    return answer["created"], answer["state"]["last_seq"]


def differences(config: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Return what is wrong with a stream's settings. Settings that are only stricter than wanted are right."""
    found = []
    if config.get("subjects") != wanted["subjects"]:
        found.append(f"subjects is {config.get('subjects')}, not {wanted['subjects']}")
    for key, consequence in _EXACT.items():
        have, want = config.get(key) or False, wanted.get(key) or False
        if have != want:
            found.append(f"{key} is {have!r}, not {want!r}: {consequence}")
    for key in _UNLIMITED:
        have, want = config.get(key, 0), wanted.get(key, 0)
        if have > 0 and want <= 0:
            found.append(f"{key} is {have}, and must not be limited: events would be lost")
        elif 0 < have < want:
            found.append(f"{key} is {have}, and {want} were asked for")
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
