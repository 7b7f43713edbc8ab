import copy
import pickle
import re
import time
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aether_sync import EventBus, NATSEventBus, patterns
from aether_sync.errors import InvalidNamespaceError, InvalidOptionError
from aether_sync.events import Event
from aether_sync.patterns import (
    Pattern,
    SubscriptionFilter,
    actor_type,
    check_namespace,
    check_prefix,
    check_queue_group,
    escape_token,
    subject_of,
    unescape_token,
)


class Text(str):
    __slots__ = ()


class Rude:
    """Raises whatever it is asked."""

    def __getattribute__(self, name):
        raise RuntimeError(name)


BAD_NAMESPACES = [
    *[
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        " ",
        "a b",
        "a.b ",
        "a\tb",
        "a\r\nb",
        "a\0",
        "a\u00a0b",
        "a\u2028b",
        "\ud800",
        "\x7f",
    ],
    *["*", ">", "a.*", "a.>", "te*nant", "a" * 513, "é" * 257, "a" * 10_000_000, "\u200b"],
    *[None, 1, b"a", ["a"], object()],
]


# -- namespaces


@pytest.mark.parametrize(
    "namespace", ["a", "tenant-a.orders", "a" * 512, "é" * 256, "Ω.日本", "$JS._x.%41", Text("a.b"), "~.!"]
)
def test_namespaces(namespace):
    check_namespace(namespace)


@pytest.mark.parametrize(
    "namespace",
    BAD_NAMESPACES,
    ids=lambda value: (
        f"{type(value).__name__}-{str.__repr__(value)[:20]}" if type(value) is str else type(value).__name__
    ),
)
def test_bad_namespaces(namespace):
    with pytest.raises(InvalidNamespaceError) as raised:
        check_namespace(namespace)
    assert len(str(raised.value)) < 300
    assert isinstance(raised.value, ValueError)
    for check in (check_prefix, Pattern.parse):
        if check == Pattern.parse and isinstance(namespace, str) and ("*" in namespace or ">" in namespace):
            continue
        with pytest.raises(InvalidNamespaceError):
            check(namespace)


def test_an_object_that_raises_at_every_turn():
    rude = Rude()
    for check in (check_namespace, check_prefix, Pattern.parse, escape_token):
        with pytest.raises(InvalidNamespaceError):
            check(rude)
    with pytest.raises(InvalidOptionError):
        check_queue_group(rude)


def test_a_str_subclass_cannot_lie():
    class Liar(str):
        __slots__ = ()

        def __contains__(self, other):
            return False

        def isprintable(self):
            return True

        def __len__(self):
            return 1

    with pytest.raises(InvalidNamespaceError):
        check_namespace(Liar("a.* b"))
    assert type(Pattern.parse(Liar("a.b")).text) is str


@pytest.mark.parametrize(
    ("namespace", "words"),
    [("a b", "space"), ("a..b", "empty token"), ("a.>", "wildcard"), ("a" * 600, "512 bytes"), ("a\u2028", "U[+]2028")],
)
def test_the_message_says_what_is_wrong(namespace, words):
    with pytest.raises(InvalidNamespaceError, match=words) as raised:
        check_namespace(namespace)
    assert namespace.encode("unicode_escape").decode()[:60] in str(raised.value)


def naive_is_valid(text):
    token_length = 0
    for character in text:
        if character == ".":
            if token_length == 0:
                return False
            token_length = 0
            continue
        if character in "*> " or not character.isprintable():
            return False
        token_length += 1
    return token_length > 0 and len(text.encode()) <= 512


def is_valid(text):
    try:
        check_namespace(text)
    except InvalidNamespaceError:
        return False
    return True


awkward = st.text(st.one_of(st.sampled_from("ab.*> -\0\t\n\u00a0\u2028\u0085é%?[]"), st.characters()), max_size=12)


@given(awkward)
def test_validity_agrees_with_a_naive_loop(text):
    assert is_valid(text) == naive_is_valid(text)


def test_every_character_alone():
    for code in range(0x3000):
        assert is_valid(chr(code)) == naive_is_valid(chr(code)), hex(code)


@pytest.mark.parametrize("prefix", ["aether", "a" * 512, "é", Text("x")])
def test_prefixes(prefix):
    check_prefix(prefix)


def test_a_prefix_is_one_token():
    with pytest.raises(InvalidNamespaceError, match="dot"):
        check_prefix("a.b")


@pytest.mark.parametrize("group", ["billing", "a.b", "..", ".", "é" * 256, Text("g")])
def test_queue_groups(group):
    check_queue_group(group)


@pytest.mark.parametrize(
    "group",
    ["", " ", "a b", "a\n", "*", "a>", "\0", "\ud800", "a" * 513, None, 3, b"g"],
    ids=lambda value: type(value).__name__,
)
def test_bad_queue_groups(group):
    with pytest.raises(InvalidOptionError, match="queue_group"):
        check_queue_group(group)


# -- patterns


@pytest.mark.parametrize(
    ("text", "subject", "has_glob", "is_literal"),
    [
        ("orders.eu", "orders.eu", False, True),
        ("orders.*", "orders.*", False, False),
        ("orders.>", "orders.>", False, False),
        ("*", "*", False, False),
        (">", ">", False, False),
        ("**", "*", False, False),
        ("a.***.b", "a.*.b", False, False),
        ("tenant-*", "*", True, False),
        ("a*b*c.x.*-eu.>", "*.x.*.>", True, False),
        ("a.b?[c]", "a.b?[c]", False, True),
    ],
)
def test_what_a_pattern_knows(text, subject, has_glob, is_literal):
    pattern = Pattern.parse(text)
    assert (pattern.text, pattern.subject_pattern, pattern.has_glob, pattern.is_literal) == (
        text,
        subject,
        has_glob,
        is_literal,
    )
    assert pattern == Pattern.parse(Text(text)) != Pattern.parse("other")
    assert hash(pattern) == hash(Pattern.parse(text))
    assert str(pattern) == text
    assert eval(repr(pattern)) == pattern
    for twin in (pickle.loads(pickle.dumps(pattern)), copy.deepcopy(pattern)):
        assert twin == pattern
        assert twin.matches("tenant-1") == pattern.matches("tenant-1")
    with pytest.raises(AttributeError):
        pattern.text = "x"


@pytest.mark.parametrize(
    "text", ["a.>.b", ">a", "a>", "a.>x", ">.a", ">>", "a.*>", "a*.b>c", "*..a", "a. *", "", ".*", "*" * 513]
)
def test_bad_patterns(text):
    with pytest.raises(InvalidNamespaceError, match="pattern"):
        Pattern.parse(text)


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("orders.*", ["orders.eu"], ["orders", "orders.eu.x", "xorders.eu", "ordersXeu"]),
        ("orders.>", ["orders.eu", "orders.eu.x"], ["orders", "order.eu"]),
        ("tenant-*", ["tenant-", "tenant-a", "tenant-a-b"], ["tenant-a.b", "xtenant-a", "tenant"]),
        ("*-eu.x", ["-eu.x", "a-eu.x", "-eu-eu.x"], ["-eu", "-eu.xx", "-eux.x", "a.b-eu.x"]),
        ("a*a", ["aa", "aba", "aaa"], ["a", "ab", "a.a"]),
        ("a*b*c", ["abc", "axbxc", "abbcc", "abcbc"], ["ac", "acb", "ab.c"]),
        ("a?.[b]", ["a?.[b]"], ["ax.b"]),
        ("a*+", ["a+", "ab+"], ["a", "aa"]),
        ("*.*", ["a.b"], ["a", "a.b.c"]),
        ("**", ["a"], ["a.b"]),
        ("x**y", ["xy", "xzy"], ["x.y", "x"]),
    ],
)
def test_matching(text, yes, no):
    pattern = Pattern.parse(text)
    assert [one for one in yes if not pattern.matches(one)] == []
    assert [one for one in no if pattern.matches(one)] == []


def model_token(pattern, token):
    @cache
    def match(i, j):
        if i == len(pattern):
            return j == len(token)
        if pattern[i] == "*":
            return match(i + 1, j) or (j < len(token) and match(i, j + 1))
        return j < len(token) and pattern[i] == token[j] and match(i + 1, j + 1)

    return match(0, 0)


def model(patterns, tokens):
    if not patterns:
        return not tokens
    if patterns == [">"]:
        return bool(tokens)
    return bool(tokens) and model_token(patterns[0], tokens[0]) and model(patterns[1:], tokens[1:])


token = st.text("ab-", min_size=1, max_size=6)
glob = st.text("ab*", min_size=1, max_size=8)
namespaces = st.lists(token, min_size=1, max_size=4).map(".".join)
pattern_texts = st.tuples(st.lists(glob, min_size=1, max_size=4), st.booleans()).map(
    lambda drawn: ".".join(drawn[0] + [">"] * drawn[1])
)


@given(pattern_texts, namespaces)
def test_matching_agrees_with_a_recursive_model(text, namespace):
    pattern = Pattern.parse(text)
    assert pattern.matches(namespace) == model(text.split("."), namespace.split("."))
    if pattern.matches(namespace):
        assert Pattern.parse(pattern.subject_pattern).matches(namespace)  # so the server sends it


@given(st.data(), st.lists(glob, min_size=1, max_size=4))
def test_what_a_pattern_generates_matches_it(data, globs):
    tokens = [re.sub(r"\*", lambda _: data.draw(st.text("ab", max_size=3)), one) or "a" for one in globs]
    assert Pattern.parse(".".join(globs)).matches(".".join(tokens))


@pytest.mark.parametrize(
    "text", ["a" + "*a" * 60 + "*b", "*" + "a*" * 100 + "b", "a*a*a*a*b.a*a*a*a*b.a*a*a*a*c", "*ab*ab*ab*ab*ab*ab*c"]
)
def test_adversarial_globs_take_no_time(text):
    pattern = Pattern.parse(text)
    candidates = ["a" * 512, "ab" * 256, "ab." * 170 + "b", ".".join(["a" * 169 + "b"] * 3)]
    started = time.process_time()
    for candidate in candidates:
        pattern.matches(candidate)
    assert not pattern.matches(candidates[0])
    assert time.process_time() - started < 0.5


@given(pattern_texts, pattern_texts, namespaces)
def test_patterns_that_share_a_namespace_overlap(one, other, namespace):
    one, other = Pattern.parse(one), Pattern.parse(other)
    assert one.overlaps(other) == other.overlaps(one)
    assert one.overlaps(one)
    if one.matches(namespace) and other.matches(namespace):
        assert one.overlaps(other)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("a.>", "a", False),
        ("a.>", "a.b", True),
        (">", "a", True),
        ("a", "a.b", False),
        ("*.b", "a.*", True),
        ("a.*", "a.>", True),
        ("a.b", "a.c", False),
        ("*.*.>", "a.b", False),
        ("a.>", "*.b.>", True),
        ("x*", "y*", True),
    ],
)
def test_overlaps(one, other, overlap):
    assert Pattern.parse(one).overlaps(Pattern.parse(other)) is overlap


# -- subjects


def test_subjects():
    assert subject_of("aether", "tenant-a.orders") == "aether.events.tenant-a.orders"
    assert subject_of("x", Pattern.parse("t-*.>").subject_pattern) == "x.events.*.>"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("order-1", "order-1"),
        ("a.b", "a%2Eb"),
        ("a_b", "a_b"),
        ("", "%"),
        ("%", "%25"),
        ("é *>", "%C3%A9%20%2A%3E"),
        ("\0", "%00"),
        ("~!", "~!"),
    ],
)
def test_escaping(text, escaped):
    assert escape_token(text) == escaped
    assert unescape_token(escaped) == text


@given(awkward, awkward)
def test_escaping_loses_nothing_and_makes_one_token(text, other):
    try:
        text.encode(), other.encode()
    except UnicodeEncodeError:
        with pytest.raises(InvalidNamespaceError):
            escape_token(text + other)
        return
    escaped = escape_token(text)
    check_prefix(escaped)
    assert escaped.isascii()
    assert unescape_token(escaped) == text
    assert (escape_token(other) == escaped) == (other == text)


@pytest.mark.parametrize(
    "token", ["", "a.b", "%41", "%2e", "%FF", "%2", "%%", "a b", "é", None, 3, "*", "%zz", "%C3%A"]
)
def test_what_was_not_escaped_is_not_unescaped(token):
    with pytest.raises(InvalidNamespaceError):
        unescape_token(token)


@given(awkward)
def test_unescaping_raises_nothing_else(token):
    try:
        assert escape_token(unescape_token(token)) == token
    except InvalidNamespaceError:
        pass


def test_escape_token_wants_text():
    with pytest.raises(InvalidNamespaceError):
        escape_token(3)


@pytest.mark.parametrize(
    ("actor_id", "kind"),
    [
        ("order-1", "order"),
        ("-x-1", "-x"),
        ("abc", "unknown"),
        ("-abc", "unknown"),
        ("a-", "a"),
        ("", "unknown"),
        ("a-b-c", "a"),
        ("-", "unknown"),
    ],
)
def test_actor_type(actor_id, kind):
    assert actor_type(actor_id) == kind


# -- filters


def event(event_type="OrderPlaced", actor_id="order-1"):
    return Event(event_type=event_type, actor_id=actor_id)


def test_an_empty_filter_takes_everything():
    for empty in (
        SubscriptionFilter(),
        SubscriptionFilter(event_types=[], actor_pattern=""),
        SubscriptionFilter(actor_pattern=None),
    ):
        assert empty.is_empty
        assert empty.matches(event(actor_id=". .\n"))
        assert empty == SubscriptionFilter()


@pytest.mark.parametrize(
    "types",
    [{"A", "B"}, ["B", "A", "A"], ("A", Text("B")), (one for one in "AB"), {"A": 1, "B": 2}],
    ids=lambda value: type(value).__name__,
)
def test_types_are_any_of_them(types):
    taken = SubscriptionFilter(event_types=types)
    assert taken.event_types == frozenset("AB")
    assert {type(one) for one in taken.event_types} == {str}
    assert taken.matches(event("A"))
    assert taken.matches(event("B"))
    assert not taken.matches(event("AB"))
    assert not taken.is_empty


def test_both_are_and():
    both = SubscriptionFilter(event_types={"A"}, actor_pattern="order-*")
    assert both.matches(event("A", "order-1"))
    assert not both.matches(event("B", "order-1"))
    assert not both.matches(event("A", "refund-1"))


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("order-*", ["order-1", "order-", "order- x\n"], ["order-1.2", "xorder-1"]),
        ("order-*.*", ["order-1.2"], ["order-1", "order-1.2.3"]),
        ("order-*.>", ["order-1.2", "order-1.2.3"], ["order-1"]),
        ("order-1", ["order-1"], ["order-11", "order-1.x"]),
        (">", ["a", "a.b", " \n", "\ud800"], []),
        ("*", ["a", " \n"], ["a.b"]),
        ("the order *", ["the order 1"], ["theorder1"]),
        ("or(der-*", ["or(der-1"], ["order-1"]),
    ],
)
def test_actor_patterns(pattern, yes, no):
    taken = SubscriptionFilter(actor_pattern=pattern)
    assert [one for one in yes if not taken.matches(event(actor_id=one))] == []
    assert [one for one in no if taken.matches(event(actor_id=one))] == []


@given(pattern_texts, awkward)
def test_a_filter_never_raises(pattern, actor_id):
    SubscriptionFilter(actor_pattern=pattern).matches(event(actor_id=actor_id or "x"))


def test_a_filter_is_a_value():
    one = SubscriptionFilter(event_types={"B", "A"}, actor_pattern="order-*")
    assert repr(one) == "SubscriptionFilter(event_types={'A', 'B'}, actor_pattern='order-*')"
    for twin in (eval(repr(one)), pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
        assert twin == one
        assert hash(twin) == hash(one)
        assert twin.matches(event("A"))
    assert one != SubscriptionFilter(event_types={"A", "B"})
    assert eval(repr(SubscriptionFilter())) == SubscriptionFilter()
    with pytest.raises(AttributeError):
        one.event_types = ()
    with pytest.raises(TypeError):
        SubscriptionFilter({"A"})


@pytest.mark.parametrize("types", ["OrderPlaced", "", {""}, {1}, [b"a"], 3, None, [None]])
def test_bad_types(types):
    with pytest.raises(InvalidOptionError, match="event_types"):
        SubscriptionFilter(event_types=types)


def test_a_bare_str_is_told_to_be_a_set():
    with pytest.raises(InvalidOptionError, match=r"pass a set: \{'OrderPlaced'\}"):
        SubscriptionFilter(event_types="OrderPlaced")


def test_so_is_a_bare_class():
    with pytest.raises(InvalidOptionError, match=r"event_types is the class EventBus; pass a set: \{EventBus\}"):
        SubscriptionFilter(event_types=EventBus)


@pytest.mark.parametrize(
    ("pattern", "error"),
    [
        (3, InvalidOptionError),
        (b"a", InvalidOptionError),
        ("a.>.b", InvalidNamespaceError),
        ("a>", InvalidNamespaceError),
        ("a..b", InvalidNamespaceError),
        (".", InvalidNamespaceError),
    ],
)
def test_bad_actor_patterns(pattern, error):
    with pytest.raises(error, match="actor_pattern"):
        SubscriptionFilter(actor_pattern=pattern)


def test_names():
    assert all(hasattr(patterns, name) for name in patterns.__all__)
    assert patterns.__all__ == sorted(patterns.__all__, key=lambda name: (name.islower(), name))


@pytest.mark.parametrize("make", [EventBus, lambda: NATSEventBus("nats://127.0.0.1:1")])
def test_a_filter_with_code_of_ones_own_is_refused_at_once(make):
    """It would run where events are delivered: on the background thread, and in other publishers' calls."""

    class Mine(SubscriptionFilter):  # type: ignore[misc]
        def matches(self, event):
            raise ValueError("mine")

    bus = make()
    with pytest.raises(InvalidOptionError, match="its subclass Mine"):
        bus.subscribe("n", filter=Mine(event_types={"E"}))
    bus.close()
