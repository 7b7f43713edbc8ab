"""What stands in a docstring, as griffe reads it (the Google style)."""

import re

import griffe

__all__ = ["fenced", "returned", "sections", "summary"]


def sections(thing: griffe.Object) -> list[griffe.DocstringSection]:
    """Return the parts of a docstring. Its roles (``:class:`Event```) are plain code from here on."""
    docstring = thing.docstring
    if docstring is None:
        return []
    text = re.sub(r":(?:meth|func):`~?([\w.]+)`", lambda found: f"``{_shortened(found[1])}()``", docstring.value)
    text = re.sub(r":[a-z]+:`~?([\w.]+)`", lambda found: f"``{_shortened(found[1])}``", text)
    read = griffe.Docstring(text, lineno=docstring.lineno, endlineno=docstring.endlineno, parent=thing)
    found: list[griffe.DocstringSection] = griffe.parse_google(
        read, returns_multiple_items=False, returns_named_value=False
    )
    return found


def _shortened(path: str) -> str:
    return path.rpartition(".")[2] if path.startswith("aether_sync.") else path


def summary(thing: griffe.Object) -> str:
    """Return the first sentence of a docstring, or what it says before its first colon."""
    for section in sections(thing):
        if section.kind is griffe.DocstringSectionKind.text:
            paragraph = str(section.value).partition("\n\n")[0].replace("\n", " ")
            return re.split(r"(?<=[.:;]) ", paragraph, maxsplit=1)[0].rstrip(".:;") + "."
    return ""


def returned(thing: griffe.Object, one: griffe.DocstringReturn) -> str:
    """Return what a function returns, in words; what stands before a colon in them is no type."""
    words = [one.description]
    if isinstance(one.annotation, str) and isinstance(thing, griffe.Function) and one.annotation != thing.returns:
        words.insert(0, one.annotation)
    return ": ".join(words)


def fenced(text: str) -> str:
    """Put what stands indented after a ``::`` between fences."""
    pieces = re.split(r"::\n\n((?:(?: {4}.*)?(?:\n|$))+)", text)
    for at in range(1, len(pieces), 2):
        lines = [line.removeprefix("    ") for line in pieces[at].strip("\n").split("\n")]
        pieces[at - 1] = f"{pieces[at - 1].rstrip()}:"
        pieces[at] = "\n".join(["\n\n```text", *lines, "```\n\n"])
    return "".join(pieces).strip("\n")
