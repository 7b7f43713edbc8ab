"""``EventTypes``: the classes of a program's events, their versions, and how older data becomes newer data.

The version of the data is kept in the metadata of an event, under ``schemaVersion``, and only from 2 on. So programs in
other languages, and those that know nothing of types, write events of version 1, and go on reading all others.
"""

from collections.abc import Callable, Iterable, Mapping
from inspect import get_annotations
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import inspect

from ._arguments import as_iterator, check_callback, check_choice, check_int, is_mapping, is_of, refuse_bare
from ._runtime.closing import Uncopied
from ._runtime.locks import signal_safe_lock
from ._values.class_parts import parts_of, unwritten_field
from ._values.shown import explained, short
from .errors import EncodingError, EventTypeError, InvalidEventError, InvalidOptionError, UnknownEventTypeError
from .events import ANNOUNCEMENTS, MAX_VERSION, Event, _metadata, event_class, made_of

__all__ = ["SCHEMA_VERSION", "EventTypes", "Upcaster", "class_of_events"]

SCHEMA_VERSION = "schemaVersion"  #: the key of the metadata that has the version of the data, if it is not 1

T = TypeVar("T")

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
"""A user's function that is given the data of one version, as a dict of its own, and returns that of the next one."""

_U = TypeVar("_U", bound=Upcaster)

_KINDS = (inspect.StructType, inspect.DataclassType, inspect.TypedDictType)  # an attrs class is a DataclassType
_WHAT = "a dataclass, a msgspec.Struct, a TypedDict or an attrs class"
_LONGEST = 500  # characters of a reason


class _Shape(NamedTuple):
    """What msgspec says of a class.

    Attributes:
        shares: Whether a value may share a dict or list with the data that it was made of, which then is copied before.
    """

    shares: bool


class _Type(NamedTuple):
    """A registered type.

    Attributes:
        name: Its name.
        version: Its newest version.
        cls: Its class.
        names: Its name, and those that it had before.
        shape: What msgspec says of the class; None while a class that it refers to is not there yet.
    """

    name: str
    version: int
    cls: Any
    names: tuple[str, ...]
    shape: _Shape | None


class _Plan(NamedTuple):
    """What is registered, complete.

    Attributes:
        types: The types, by each of their names.
        by_class: The same by class.
        upcasters: By name, those from version 1, 2 and so on.
    """

    types: dict[str, _Type]
    by_class: dict[Any, _Type]
    upcasters: dict[str, tuple[Upcaster, ...]]


class EventTypes(Uncopied):
    """The types of events that a program knows: for each a class, a name and a version.

    Give it to a store or bus as ``types``. Then ``event.value`` of the events that come from there is an object of the
    registered class, and ``append()`` takes such objects. Types may be registered before or after that. Any thread may
    use a registry, and several stores and buses may share one.

    A class may be whatever msgspec converts a dict to: a dataclass, a ``msgspec.Struct``, a ``TypedDict`` or an attrs
    class. It stays as it is. Its fields may have the types that :meth:`Event.data_as` reads.

    Args:
        unknown: What ``event.value`` does if the type of an event is not registered, or in an older version only.
            ``"raise"`` raises ``UnknownEventTypeError``: nothing is overlooked. ``"pass"`` returns the plain
            :class:`Event`, for programs that look at a few types of many.

    Raises:
        InvalidOptionError: ``unknown`` is another word.
    """

    def __init__(self, unknown: Literal["raise", "pass"] = "raise") -> None:
        self._passes = check_choice("unknown", unknown, {"raise": False, "pass": True})
        self._lock = signal_safe_lock()  # guards the fields below; no code of the user's runs under it
        self._types: dict[str, _Type] = {}  # by each of their names
        self._by_class: dict[Any, _Type] = {}
        self._upcasters: dict[str, dict[int, Upcaster]] = {}  # by name and version
        self._changes = 0
        self._plan: _Plan | None = None  # made of the above at the first use, and anew when something is registered
        self._event_class = event_class(self)

    # -- registering

    def event(self, name: str, *, version: int = 1, formerly: Iterable[str] = ()) -> Callable[[type[T]], type[T]]:
        """Return a decorator that registers a class as a type of events, and returns it unchanged.

        Args:
            name: The name of the type, under which its events are stored: ``"OrderPlaced"``. It is not taken from the
                class, so that the class can be renamed.
            version: The version of the data that the class has, 1 or more. Raise it by one for each change that old
                data does not fit, and register an :meth:`upcast` from the version before. A new field with a default
                needs no new version.
            formerly: Names under which events of this type were stored before it was renamed. Such events count the
                same versions, and are read as the others; a filter for the class takes them, too.

        Raises:
            InvalidOptionError: The name or the class is registered already, an argument is wrong, there is an upcaster
                for this version or a later one, or msgspec cannot convert to the class.
        """
        refuse_bare(name, "@types.event", "'OrderPlaced'")
        name = _checked_name(name)
        version = check_int("version", version, 1)
        names = (name, *_checked_names(formerly))
        if len(set(names)) < len(names):
            raise InvalidOptionError(f"formerly has a name of {short(name)} twice: {short(names[1:])}")

        def register(cls: type[T]) -> type[T]:
            self._register(_Type(name, version, cls, names, _shape_of(cls)))
            return cls

        return register

    def _register(self, one: _Type) -> None:
        with self._lock:
            for name in one.names:
                if name in self._types:
                    there = self._types[name]
                    raise InvalidOptionError(
                        f"the event type {short(name)} is registered already, as {_shown(there.cls)}"
                    )
                if name != one.name and name in self._upcasters:
                    raise InvalidOptionError(
                        f"there is an upcaster for {short(name)}, a former name: register it for {short(one.name)}"
                    )
            if one.cls in self._by_class:
                there = self._by_class[one.cls]
                raise InvalidOptionError(f"{_shown(one.cls)} is registered already, as {short(there.name)}")
            late = [version for version in self._upcasters.get(one.name, ()) if version >= one.version]
            if late:
                raise _too_new(one, max(late))
            self._types |= dict.fromkeys(one.names, one)
            self._by_class[one.cls] = one
            self._note_change()

    def upcast(self, name: str, *, version: int) -> Callable[[_U], _U]:
        """Return a decorator that registers a function which turns data of one version into data of the next one.

        The function gets the data as a dict of its own, which it may change, and returns a dict of JSON values. It is
        called when somebody reads ``event.value``, for each access anew; what is stored stays as it is. To be of use,
        it returns the same for the same data each time, and asks nobody.

        Args:
            name: The name of the type. It may be registered later.
            version: The version that the function is given: the one that it comes from, and not the one it leads to.

        Raises:
            InvalidOptionError: There is such an upcaster, an argument is wrong, or the type has no later version.
        """
        name = _checked_name(name)
        version = check_int("version", version, 1)

        def register(upcaster: _U) -> _U:
            check_callback(f"the upcaster of {short(name)} from version {version}", upcaster, "a dict")
            with self._lock:
                one = self._types.get(name)
                if one is not None and one.name != name:
                    raise InvalidOptionError(
                        f"{short(name)} is a former name: register the upcaster for {short(one.name)}"
                    )
                if one is not None and version >= one.version:
                    raise _too_new(one, version)
                there = self._upcasters.setdefault(name, {})
                if version in there:
                    raise InvalidOptionError(f"there is an upcaster of {short(name)} from version {version} already")
                there[version] = upcaster
                self._note_change()
            return upcaster

        return register

    def _note_change(self) -> None:
        self._changes += 1
        self._plan = None

    def check(self) -> None:
        """Raise if something is missing that only shows when all is registered. The first use does the same.

        Raises:
            InvalidOptionError: A type of version 3, say, lacks an upcaster from version 1 or 2, an upcaster is there
                for a name that is not registered, or a class refers to one that is not there. All of it is named.
        """
        self._complete()

    def _complete(self) -> _Plan:
        """Return what is registered; raise if it is not complete."""
        while True:
            plan = self._plan
            if plan is not None:
                return plan
            with self._lock:
                changes, types, by_class = self._changes, dict(self._types), dict(self._by_class)
                upcasters = {name: dict(there) for name, there in self._upcasters.items()}
            plan = _planned(types, by_class, upcasters)
            with self._lock:
                if self._changes == changes:
                    self._plan = plan

    # -- what is registered

    def names(self, *event_types: str | type) -> frozenset[str]:
        """Return the names under which events of these types are stored, as ``event_types`` of a filter takes them.

        Args:
            *event_types: Classes that are registered, which stand for their names and all former ones; or names, which
                stand for themselves. None at all returns the names of all registered types.

        Raises:
            InvalidOptionError: A class is not registered, or something is neither a class nor a name.
        """
        plan = self._complete()
        if not event_types:
            return frozenset(plan.types)
        return frozenset(name for one in event_types for name in self._names_of(plan, one))

    def _names_of(self, plan: _Plan, one: str | type) -> Iterable[str]:
        if is_of(one, str):
            return (_checked_name(one),)
        known = _found(plan, one)
        if known is None:
            raise InvalidOptionError(
                f"{_shown(one)} is no registered event type: pass a class that is, or a name. {_registered(plan)}"
            )
        return known.names

    def knows(self, event: Event) -> bool:
        """Whether the type of an event is registered, in its version or a later one.

        Raises:
            EventTypeError: The event's ``schemaVersion`` is not a version.
        """
        known = self._complete().types.get(_checked_event(event).event_type)
        return event.event_type in ANNOUNCEMENTS or (known is not None and _version_of(event) <= known.version)

    # -- reading

    def value_of(self, event: Event) -> Any:
        """Return what ``event.value`` is for an event of a store or bus with these types; any event may be given.

        Raises:
            UnknownEventTypeError: The type of the event is not registered, or in an older version only; not with
                ``unknown="pass"``, which returns the event.
            EventTypeError: The data does not have the shape of the class, or an upcaster has failed.
            InvalidOptionError: Something is missing in the registry; see :meth:`check`.
        """
        plan = self._complete()
        known = plan.types.get(_checked_event(event).event_type)
        if event.event_type in ANNOUNCEMENTS:
            return _announcement(event)
        version = 0 if known is None else _version_of(event)
        if known is None or version > known.version:
            if self._passes:
                return event
            raise _unknown(event, known, version, plan)
        return _value(event, known, self._newest_data(event, known, version, plan))

    def upcasted(self, event: Event) -> Event:
        """Return an event with the newest name of its type, and with data of the newest version; as it was stored else.

        It is checked that the class can be made of that data. An event that is not known comes back as it is, whatever
        the policy.

        Raises:
            EventTypeError: The data does not have the shape of the class, or an upcaster has failed.
            InvalidOptionError: Something is missing in the registry; see :meth:`check`.
        """
        plan = self._complete()
        known = plan.types.get(_checked_event(event).event_type)
        version = 0 if known is None else _version_of(event)
        if known is None or version > known.version:
            return event
        data = self._newest_data(event, known, version, plan)
        _value(event, known, data)
        if version == known.version and event.event_type == known.name:
            return event
        metadata = {key: text for key, text in event.metadata.items() if key != SCHEMA_VERSION}
        return event.replace(event_type=known.name, data=data, metadata=metadata | _noted(known))

    def _newest_data(self, event: Event, known: _Type, version: int, plan: _Plan) -> Mapping[str, Any]:
        """Return the data of an event in the newest version; the event's own only if no value can share it."""
        data: Any = event.data or {}
        assert known.shape is not None
        if version == known.version and not known.shape.shares:
            return data  # type: ignore[no-any-return]
        try:
            data = _copied(data)
        except RecursionError as error:
            raise EventTypeError(f"{_of(event)}: its data is nested too deeply to be copied", event.id) from error
        for number, upcaster in enumerate(plan.upcasters[known.name][version - 1 :], version):
            what = f"the upcaster of {short(known.name)} from version {number}"
            try:
                data = upcaster(data)
            except Exception as error:
                raise EventTypeError(f"{_of(event)}: {what} failed: {explained(error)}", event.id) from error
            if not is_mapping(data):
                raise EventTypeError(f"{_of(event)}: {what} returned {short(data)}, and no dict", event.id)
        return data  # type: ignore[no-any-return]

    # -- writing

    def to_event(
        self,
        value: object,
        *,
        actor_id: str,
        version: int = 0,
        command_id: str = "",
        metadata: Mapping[str, str] | None = None,
        kind: type | None = None,
        caused_by: Event | None = None,
    ) -> Event:
        """Return a new event of a value, as ``append()`` makes it of one.

        Args:
            value: An object of a registered class.
            actor_id: As for :class:`Event`.
            version: The actor's version, as for :class:`Event`.
            command_id: As for :class:`Event`.
            metadata: As for :class:`Event`. The key ``schemaVersion`` is set to the version of the type.
            kind: The class, if the value does not tell: a value of a ``TypedDict`` is a plain dict.
            caused_by: The event that caused this one: its ids, user and trace are carried over as by
                :meth:`Event.following`.

        Raises:
            InvalidEventError: The class is not registered; or the value does not fit its own class, so that nobody
                could read it again, and the error names the field; or another argument is wrong.
            EncodingError: The value holds something that cannot be written as JSON.
        """
        plan = self._complete()
        known = _found(plan, type(value) if kind is None else kind)
        if known is None:
            raise InvalidEventError(_unregistered(value, kind, plan))
        data = _written(value, known)
        given = {} if metadata is None else _metadata(metadata)
        noted = {key: text for key, text in given.items() if key != SCHEMA_VERSION} | _noted(known)
        if caused_by is None:
            make: Callable[..., Event] = Event
        else:
            make = _checked_event(caused_by).following
        event = make(
            event_type=known.name,
            actor_id=actor_id,
            version=version,
            data=data,
            command_id=command_id,
            metadata=noted,
        )
        return made_of(event, self._event_class)

    def __repr__(self) -> str:
        types = sorted(set(self._types.values()), key=lambda one: one.name)
        return f"<EventTypes {', '.join(f'{one.name} {one.version}' for one in types)}>"


def class_of_events(types: EventTypes | None) -> type[Event]:
    """Return the class of the events that a store or bus with these types hands out.

    Raises:
        InvalidOptionError: It is something else.
    """
    if types is None:
        return Event
    if not is_of(types, EventTypes):
        raise InvalidOptionError(f"types must be an EventTypes, not {short(types)}")
    return types._event_class


# -- registering


def _checked_name(name: object) -> str:
    if not is_of(name, str) or not str.__str__(name):
        raise InvalidOptionError(
            f"the name of an event type is a non-empty str such as 'OrderPlaced', not {short(name)}"
        )
    text = str.__str__(name)
    if text in ANNOUNCEMENTS:
        raise InvalidOptionError(
            f"{text!r} is the type of what this library announces, whose value is of its own class"
        )
    return text


def _checked_names(formerly: Iterable[str]) -> tuple[str, ...]:
    iterator = None if is_of(formerly, str) else as_iterator(formerly)
    if iterator is None:
        raise InvalidOptionError(f"formerly is a collection of names, such as {{'OrderMade'}}, not {short(formerly)}")
    return tuple(map(_checked_name, iterator))


def _too_new(one: _Type, version: int) -> InvalidOptionError:
    meant = f"; or say version={version - 1} if it leads to version {version}" if version > 1 else ""
    return InvalidOptionError(
        f"an upcaster of {short(one.name)} is from version {version}, and the type is of version {one.version}: raise "
        f"that to {version + 1}{meant}"
    )


def _shape_of(cls: Any) -> _Shape | None:
    """Return what msgspec says of a class; None if that refers to a name which is not there yet.

    Raises:
        InvalidOptionError: It is no class that can be made of a dict.
    """
    if not is_of(cls, type):
        raise InvalidOptionError(f"an event type is {_WHAT}, not {short(cls)}")
    try:
        found = inspect.type_info(cls)
        if not isinstance(found, _KINDS) or getattr(found, "array_like", False):
            raise InvalidOptionError(
                f"an event type is {_WHAT}, and made of a dict; {_shown(cls)} is not{_swapped(cls)}"
            )
        parts = list(parts_of(found))
        msgspec.convert(None, cls)
    except NameError:
        return None
    except msgspec.ValidationError:
        pass  # as None is no dict; the class itself is one that msgspec converts to
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InvalidOptionError):
            raise
        raise InvalidOptionError(f"{_shown(cls)} cannot be an event type: {explained(error, _LONGEST)}") from error
    for part in parts:
        if isinstance(part, (inspect.CustomType, inspect.RawType, inspect.ExtType)):
            what = _shown(getattr(part, "cls", type(part)))
            raise InvalidOptionError(
                f"{_shown(cls)} cannot be an event type: it has {what} in it, which nobody can make of JSON"
            )
    if unwritten := unwritten_field(parts):
        raise InvalidOptionError(f"{_shown(cls)} cannot be an event type: {unwritten}")
    return _Shape(any(isinstance(part, inspect.AnyType) for part in parts))


def _swapped(cls: type) -> str:
    """Return what to do if a class was perhaps registered before it is made a dataclass."""
    try:
        has_fields = bool(get_annotations(cls)) and not issubclass(cls, tuple)
    except Exception:  # a name that is not there at run time
        has_fields = False
    return ": write @dataclass below @types.event(...), and not above it" if has_fields else ""


def _planned(types: dict[str, _Type], by_class: dict[Any, _Type], upcasters: dict[str, dict[int, Upcaster]]) -> _Plan:
    """Return what is registered as a plan.

    Raises:
        InvalidOptionError: Something is missing; all of it is named.
    """
    faults, complete = [], {}
    for one in by_class.values():
        there = upcasters.get(one.name, {})
        faults += [
            f"{short(one.name)} is of version {one.version}, and has no upcaster from version {version}"
            for version in range(1, one.version)
            if version not in there
        ][:3]
        shape = one.shape or _shape_of(one.cls)
        if shape is None:
            faults.append(f"{_shown(one.cls)} refers to a class that is not there")
        complete[one.name] = one._replace(shape=shape)
    faults += [
        f"there is an upcaster of {short(name)}, which is not registered" for name in upcasters if name not in types
    ]
    if faults:
        raise InvalidOptionError(f"the event types are not complete: {'; '.join(faults)}")
    return _Plan(
        {name: complete[one.name] for name, one in types.items()},
        {cls: complete[one.name] for cls, one in by_class.items()},
        {name: tuple(upcasters.get(name, {})[at] for at in range(1, one.version)) for name, one in complete.items()},
    )


# -- reading


def _checked_event(event: Event) -> Event:
    if type(event) is not Event and not is_of(event, Event):
        raise InvalidEventError(f"an Event is wanted here, not {type(event).__name__}")
    return event


def _version_of(event: Event) -> int:
    """Return the version of an event's data: 1 if it does not say."""
    text = event.metadata.get(SCHEMA_VERSION)
    if text is None:
        return 1
    version = int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_VERSION)) else 0
    if version < 1:
        raise EventTypeError(f"{_of(event)}: its {SCHEMA_VERSION} is {short(text)}, which is no version", event.id)
    return version


def _unknown(event: Event, known: _Type | None, version: int, plan: _Plan) -> UnknownEventTypeError:
    if known is None:
        what = f"its type is not registered. {_registered(plan)}"
    else:
        what = (
            f"it is of version {version}, and version {known.version} is registered: a newer program has stored it, and"
            " reads it"
        )
    return UnknownEventTypeError(f"{_of(event)}: {what}", event.id)


def _value(event: Event, known: _Type, data: Mapping[str, Any]) -> Any:
    try:
        return msgspec.convert(data, known.cls, str_keys=True)
    except Exception as error:  # the class may have a __post_init__ of the user's, which raises anything
        advice = ""
        if type(error) is msgspec.ValidationError and "missing required field" in str(error):
            advice = ". Give the class a new version, and upcast what has the old one; or give the field a default"
        raise EventTypeError(f"{_of(event)} is no {_shown(known.cls)}: {_reason(error)}{advice}", event.id) from error


def _reason(error: Exception) -> str:
    """Return what msgspec says, which has the place of a fault in it; or an error of the user's with its type."""
    return str(error)[:_LONGEST] if type(error) is msgspec.ValidationError else explained(error, _LONGEST)


def _announcement(event: Event) -> Any:
    try:
        return event.data_as(ANNOUNCEMENTS[event.event_type])
    except ValueError as error:
        raise EventTypeError(str(error), event.id) from error


def _of(event: Event) -> str:
    return f"event {short(event.event_type)} ({short(event.id)}) of actor {short(event.actor_id)}"


def _copied(value: Any) -> Any:
    """Copy what JSON has."""
    if is_mapping(value):
        return {key: _copied(one) for key, one in value.items()}
    if type(value) is list or is_of(value, list):
        return [_copied(one) for one in value]
    return value


# -- writing


def _found(plan: _Plan, cls: Any) -> _Type | None:
    return plan.by_class.get(cls) if is_of(cls, type) else None


def _unregistered(value: object, kind: object, plan: _Plan) -> str:
    what = _shown(type(value) if kind is None else kind)
    if kind is None and is_of(value, dict):
        return "a dict does not tell its TypedDict: pass that as kind=, to to_event()"
    return f"{what} is no registered event type: register it with @types.event(name). {_registered(plan)}"


def _written(value: object, known: _Type) -> dict[str, Any]:
    """Return a value as the data of an event, from which it can be read again."""
    try:
        data = msgspec.to_builtins(value, str_keys=True)
    except RecursionError as error:
        raise EncodingError(f"{_shown(known.cls)} is nested too deeply, or contains itself") from error
    except Exception as error:  # of an object that msgspec does not know, or of the user's own property
        raise EncodingError(f"{_shown(known.cls)} cannot be written as JSON: {explained(error, _LONGEST)}") from error
    try:
        msgspec.convert(data, known.cls, str_keys=True)
    except Exception as error:
        raise InvalidEventError(
            f"{_shown(known.cls)} does not fit its own class, and could not be read again: {_reason(error)}"
        ) from error
    return data  # type: ignore[no-any-return]


def _noted(known: _Type) -> dict[str, str]:
    return {SCHEMA_VERSION: str(known.version)} if known.version > 1 else {}


def _shown(cls: Any) -> str:
    return cls.__name__ if is_of(cls, type) else short(cls)


def _registered(plan: _Plan) -> str:
    names = sorted(plan.types)
    if not names:
        return "None is: are the modules imported that register them?"
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"Registered are {', '.join(names[:8])}{more}"
