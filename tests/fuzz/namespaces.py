"""Any text as a namespace, a pattern, a prefix, a queue group: refused by our errors, or exactly what a server reads.

The server splits a command at spaces, tabs, CR and LF, and a subject at dots; what passes our checks must come out of
that as it went in.
"""

from .run import fuzz, instrumented

with instrumented(__name__):
    from aether_sync import Event, InvalidNamespaceError, InvalidOptionError, SubscriptionFilter
    from aether_sync.patterns import (
        Pattern,
        check_namespace,
        check_prefix,
        check_queue_group,
        escape_token,
        subject_of,
        unescape_token,
    )

_WHITE = bytes.maketrans(b"\t\r\n\f\v\0", b"      ")


def check(data: bytes) -> None:
    """Take the bytes for text, of two halves where two are wanted."""
    text = data.decode("utf-8", "surrogateescape")
    one, _, other = text.partition("|")
    check_as_namespace(one)
    check_as_pattern(one, other)
    check_as_words(one)


def check_as_namespace(text: str) -> None:
    try:
        namespace = check_namespace(text)
    except InvalidNamespaceError as error:
        check_message(error)
        return
    tokens = as_a_server_reads(b"PUB %b 5\r\n" % subject_of("aether", namespace).encode(), fields=3)
    assert tokens[:2] == ["aether", "events"]
    assert ".".join(tokens[2:]) == text
    assert all(tokens)
    assert not {"*", ">"} & set("".join(tokens))


def check_message(error: Exception) -> None:
    assert len(str(error)) < 800, "a hundred escaped characters at most"


def check_as_pattern(text: str, namespace: str) -> None:
    try:
        pattern = Pattern.parse(text)
    except InvalidNamespaceError:
        return
    tokens = as_a_server_reads(b"SUB %b g 1\r\n" % subject_of("aether", pattern.subject_pattern).encode(), fields=4)
    assert tokens[:2] == ["aether", "events"]
    assert all(token in ("*", ">") or not {"*", ">"} & set(token) for token in tokens)
    assert ">" not in tokens[:-1]
    if pattern.is_literal:
        assert pattern.matches(text)
    try:
        check_namespace(namespace)
    except InvalidNamespaceError:
        return
    if pattern.matches(namespace):  # then the server sends it, and nothing of another depth
        assert server_matches(tokens[2:], namespace.split("."))


def check_as_words(text: str) -> None:
    try:
        assert as_a_server_reads(f"PUB {check_prefix(text)}.events.n 5\r\n".encode(), fields=3)[1:] == ["events", "n"]
    except InvalidNamespaceError:
        pass
    try:
        as_a_server_reads(f"SUB a {check_queue_group(text)} 1\r\n".encode(), fields=4)
    except InvalidOptionError:
        pass
    try:
        token = escape_token(text)
        assert unescape_token(token) == text
        assert not set(token) & set(".*> \r\n\t")
    except InvalidNamespaceError:
        pass
    try:
        wanted = SubscriptionFilter(actor_pattern=text)
    except InvalidNamespaceError:
        return
    if text.isprintable() and text:
        wanted.matches(Event(event_type="X", actor_id=text))


def as_a_server_reads(line: bytes, fields: int) -> list[str]:
    """The tokens of a command's subject, if the command is of one line and has so many fields."""
    assert line.count(b"\r\n") == 1
    assert len(line.translate(_WHITE).split(b" ")) == fields + 2  # of CR and LF
    return line.split(b" ")[1].decode().split(".")


def server_matches(pattern: list[str], tokens: list[str]) -> bool:
    if not pattern or not tokens:
        return pattern == tokens
    if pattern == [">"]:
        return True
    return pattern[0] in ("*", tokens[0]) and server_matches(pattern[1:], tokens[1:])


if __name__ == "__main__":
    fuzz("namespaces", check)
