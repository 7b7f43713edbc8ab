"""``StateSnapshots``: writes the states of one repository as snapshots, and reads them again.

A snapshot must never change a state, so what is written is read again and compared before it is saved: values, and the
classes of all that is in them. It is only used by a program whose class of states has the same shape: one with another
field would find a default in it that the events may not say.
"""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar, Union, get_origin, get_type_hints

import msgspec

from .._values.class_parts import parts_of, unwritten_field
from .._values.shown import explained, short
from ..errors import InvalidOptionError
from ..events import Event
from ..stores.base import Snapshot
from ._classes import unlike
from ._commands import Command, latest_commands
from ._evolution import name_of

__all__ = ["StateSnapshots", "Read", "UnkeptStateError"]

State = TypeVar("State")

_COMMANDS = list[Command]


class UnkeptStateError(Exception):
    """A state cannot be kept in a snapshot; the message says why."""


class Read(NamedTuple, Generic[State]):
    """What a snapshot says.

    Attributes:
        state: The state.
        commands: The latest commands up to its version.
    """

    state: State
    commands: Sequence[Command]


class StateSnapshots(Generic[State]):
    """Makes and reads the snapshots of states. Any thread may use it.

    Attributes:
        every: After how many events a snapshot is made.
        schema_version: The version that the user counts.

    Args:
        initial: Returns the first state. The type of the states is what it is annotated to return, or else the type
            of what it returns.
        first: What it returned.
        every: After how many events.
        schema_version: The version.

    Raises:
        InvalidOptionError: The state cannot be written as JSON and read again.
    """

    def __init__(self, initial: Callable[[], State], first: State, every: int, schema_version: int) -> None:
        self.every = every
        self.schema_version = schema_version
        self._type: Any = _type_of(initial, first)
        try:
            schema = _schema_of(self._type)
            self._written(first)
        except (TypeError, ValueError, NameError, UnkeptStateError) as error:
            raise InvalidOptionError(
                f"snapshot_every needs states that JSON can hold, and {short(first)}, of {name_of(initial)}, is none: "
                f"{error!s:.200}; {_advice(self._type)}, or leave snapshot_every out"
            ) from error
        self._shape = hashlib.sha256(schema).hexdigest()[:16]

    def make(
        self, actor_id: str, version: int, state: State, commands: Sequence[Command], events: Sequence[Event]
    ) -> Snapshot:
        """Return a snapshot of an actor.

        Args:
            actor_id: The actor.
            version: Its version.
            state: Its state at that version.
            commands: The commands that were known from the snapshot before.
            events: The events after that snapshot.

        Raises:
            UnkeptStateError: The state cannot be kept.
        """
        kept = {
            "state": self._written(state),
            "shape": self._shape,
            "commands": [list(one) for one in latest_commands(commands, events)],
        }
        return Snapshot(actor_id=actor_id, version=version, state=kept, schema_version=self.schema_version)

    def _written(self, state: State) -> Any:
        try:
            written = msgspec.to_builtins(state, str_keys=True)
            again = msgspec.convert(msgspec.json.decode(msgspec.json.encode(written)), self._type, str_keys=True)
            if type(state).__eq__ is not object.__eq__:
                is_same = again == state
            else:
                is_same = msgspec.json.encode(again) == msgspec.json.encode(state)
            different = unlike(state, again)
        except Exception as error:  # of msgspec, or of the user's own __post_init__ or __eq__
            raise UnkeptStateError(explained(error)) from error
        if not is_same:
            raise UnkeptStateError(f"it is read from JSON as {short(again)}")
        if different is not None:
            one, other = different
            raise UnkeptStateError(
                f"{short(one)}, of the class {type(one).__qualname__}, is read from JSON as {short(other)}, of "
                f"{type(other).__qualname__}"
            )
        return written

    def read(self, snapshot: Snapshot) -> Read[State] | str:
        """Return what a snapshot says, or why it is not one of these states."""
        kept = snapshot.state
        if kept.get("shape") != self._shape:
            return "it was made of states of another shape, or not by a repository"
        try:
            commands = msgspec.convert(kept.get("commands"), _COMMANDS)
            return Read(msgspec.convert(kept.get("state"), self._type, str_keys=True), commands)
        except Exception as error:  # of msgspec, or of the user's own __post_init__
            return explained(error)


def _schema_of(kind: Any) -> bytes:
    """Return the shape of states as JSON.

    Raises:
        UnkeptStateError: A field of theirs would not be written.
        TypeError, NameError: msgspec does not know the type.
    """
    if unwritten := unwritten_field(parts_of(msgspec.inspect.type_info(kind))):
        raise UnkeptStateError(unwritten)
    return msgspec.json.encode(msgspec.json.schema(kind), order="deterministic")


def _advice(kind: Any) -> str:
    """Return what to make states of that JSON can hold."""
    if isinstance(kind, type(int | str)) or get_origin(kind) is Union:
        return "make each class of the union a msgspec.Struct with tag=True, so that JSON says of which one a state is"
    return "use a dataclass or a msgspec.Struct"


def _type_of(initial: Callable[[], State], first: State) -> Any:
    """Return the type of states: that of the first one, or what a function is annotated with, such as a union."""
    if inspect.isfunction(initial):
        try:
            hint = get_type_hints(initial).get("return")
        except Exception:  # a name that is not there at run time
            hint = None
        if hint is not None:
            return hint
    return type(first)
