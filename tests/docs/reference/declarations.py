"""How a thing is declared, in Python, from what griffe has read of the source."""

import re
from collections.abc import Iterator

import griffe

__all__ = ["all_classes", "declarations", "field", "fields", "find", "is_protocol", "signature", "target"]

_WIDTH = 88  # columns of a signature, before each parameter gets a line of its own


def target(thing: griffe.Object | griffe.Alias) -> griffe.Object:
    """Return what an import names."""
    return thing.final_target if isinstance(thing, griffe.Alias) else thing


# -- classes


def all_classes(thing: griffe.Class) -> list[griffe.Class]:
    """Return a class and its base classes, in the order in which Python looks for a member."""
    return [thing, *thing.mro()]


def find(thing: griffe.Class, name: str) -> griffe.Object | None:
    """Return a member of a class or of its bases."""
    return next((target(one.members[name]) for one in all_classes(thing) if name in one.members), None)


def _bases(thing: griffe.Class) -> set[str]:
    return {str(base).rpartition(".")[2] for base in thing.bases}


def is_protocol(thing: griffe.Class) -> bool:
    """Whether a class says what others have."""
    return "Protocol" in _bases(thing)


def fields(thing: griffe.Class) -> list[str]:
    """Return what the values of a class consist of, if it is a class of values."""
    if "dataclass" not in thing.labels and not _bases(thing) & {"Struct", "TypedDict", "NamedTuple"}:
        return []
    return [
        name
        for name, one in thing.members.items()
        if isinstance(one, griffe.Attribute) and "property" not in one.labels and not name.startswith("_")
    ]


def field(thing: griffe.Object, name: str) -> str:
    """Return how a field is declared. An attribute that the constructor sets has the type of its parameter."""
    member = thing.members.get(name)
    annotation = member.annotation if isinstance(member, griffe.Attribute) else None
    constructor = thing.members.get("__init__")
    if annotation is None and isinstance(constructor, griffe.Function) and name in constructor.parameters:
        annotation = constructor.parameters[name].annotation
    declared = _annotated(name, annotation)
    if isinstance(member, griffe.Attribute) and "class-attribute" in member.labels and member.value is not None:
        return f"{declared} = {_value(member.value)}"
    return declared


# -- functions, properties, constants


def declarations(thing: griffe.Object, name: str) -> Iterator[str]:
    """Yield how a function, with each of its overloads, a property or a constant is declared."""
    if isinstance(thing, griffe.Function):
        for one in thing.overloads or [thing]:
            yield signature(one, name)
    elif isinstance(thing, griffe.Attribute):
        declared = _annotated(name, thing.annotation)
        is_constant = thing.value is not None and not name.startswith("__")  # a version changes with each release
        yield f"{declared} = {_value(thing.value)}" if is_constant else declared


def signature(function: griffe.Function, name: str) -> str:
    """Return the head of a function; under the name of its class, that of a constructor."""
    if name == function.name:
        start = f"{'async ' if 'async' in function.labels else ''}def {name}("
        end = ")" if function.returns is None else f") -> {_expression(function.returns)}"
    else:
        start, end = f"class {name}(", ")"
    parameters = list(_parameters(function))
    line = f"{start}{', '.join(parameters)}{end}"
    if len(line) > _WIDTH:
        line = "\n".join([start, *(f"    {one}," for one in parameters), end])
    return "".join([*(f"@{one}\n" for one in ("classmethod", "staticmethod") if one in function.labels), line])


def _parameters(function: griffe.Function) -> Iterator[str]:
    kinds = griffe.ParameterKind
    is_bound = isinstance(function.parent, griffe.Class) and "staticmethod" not in function.labels
    before: griffe.ParameterKind | None = None
    for one in list(function.parameters)[1 if is_bound else 0 :]:
        if before is kinds.positional_only and one.kind is not kinds.positional_only:
            yield "/"
        if one.kind is kinds.keyword_only and before not in (kinds.keyword_only, kinds.var_positional):
            yield "*"
        before = one.kind
        stars = {kinds.var_positional: "*", kinds.var_keyword: "**"}.get(one.kind, "")
        declared = _annotated(f"{stars}{one.name}", one.annotation)
        yield declared if one.default is None or stars else f"{declared} = {_value(one.default)}"
    if before is kinds.positional_only:
        yield "/"


# -- expressions


def _annotated(name: str, annotation: str | griffe.Expr | None) -> str:
    return name if annotation is None else f"{name}: {_expression(annotation)}"


def _value(value: str | griffe.Expr | None) -> str:
    """Return a default: of a private constant what it stands for, and of a factory that there is one."""
    if isinstance(value, griffe.ExprName) and isinstance(value.parent, griffe.Object):
        found = value.parent.module.members.get(value.name)
        is_foreign = isinstance(found, griffe.Alias) and not found.target_path.startswith("aether_sync.")
        constant = None if found is None or is_foreign else target(found)
        if isinstance(constant, griffe.Attribute) and constant.value is not None:
            return _value(constant.value)
    text = _expression(value)
    return "..." if re.match(r"(\w+\.)*field\(", text) else text


def _expression(value: str | griffe.Expr | None) -> str:
    """Return an expression as this project writes it."""
    text = re.sub(r"'([^'\"\\]*)'", r'"\1"', str(value))
    text = re.sub(r"(?<!\.)\b\d{5,}\b", lambda found: f"{int(found[0]):_}", text)
    return text.replace(" ** ", "**").replace("Datetime", "datetime")
