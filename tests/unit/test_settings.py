"""What a connection uses: which source wins, what belongs together, and what cannot be meant."""

import base64
import os
import ssl
from pathlib import Path
from typing import Any

import nkeys
import pytest

from aether_sync import Connection, JetStreamEventStore, NATSEventBus
from aether_sync._nats.login import InMemory, Login, NotSentError
from aether_sync._nats.settings import InContext, Settings, settle
from aether_sync.errors import InvalidOptionError

from ..support.contexts import Contexts, contexts
from ..support.credentials import Account, Key, Operator, User

__all__ = ["contexts"]

Environ = dict[str, str]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with files that are there."""
    for name in ("a.creds", "b.creds", "a.nk", "b.nk"):
        (tmp_path / name).write_text(name)
    return tmp_path


def settled(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], environ: Environ, *, trust_env: bool = True
) -> Settings:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return settle(given, trust_env)


def login_of(settings: Settings) -> dict[str, Any]:
    """Return which credentials there are, files by their names."""
    names = ("user", "password", "token", "credentials", "nkeys_seed")
    found = {name: value for name in names if (value := getattr(settings, name)) is not None}
    return {name: Path(one).name if name in names[3:] and isinstance(one, str) else one for name, one in found.items()}


# -- the order


@pytest.mark.parametrize(
    ("given", "environ", "url"),
    [
        ({}, {}, "nats://127.0.0.1:4222"),
        ({}, {"NATS_CONTEXT": "c"}, "nats://of-context"),
        ({}, {"NATS_CONTEXT": "c", "NATS_URL": "of-env"}, "nats://of-env"),
        ({}, {"NATS_CONTEXT": "c", "NATS_URL": ""}, "nats://of-context"),
        ({"url": "given"}, {"NATS_CONTEXT": "c", "NATS_URL": "of-env"}, "nats://given"),
        ({"url": InContext(None, "c")}, {}, "nats://of-context"),
        ({"url": InContext(None, "c")}, {"NATS_URL": "of-env"}, "nats://of-context"),
        ({"url": InContext(None, "without")}, {"NATS_URL": "of-env"}, "nats://127.0.0.1:4222"),
        ({"url": InContext(None, "c")}, {"NATS_CONTEXT": "no-such"}, "nats://of-context"),
        ({"url": InContext("given", "c")}, {"NATS_URL": "of-env"}, "nats://given"),
        ({"url": InContext(None, None)}, {"NATS_CONTEXT": "c"}, "nats://of-context"),
        ({"url": InContext(None, None)}, {"NATS_CONTEXT": "c", "NATS_URL": "of-env"}, "nats://of-env"),
        ({"url": InContext(None, None)}, {}, "nats://of-selected"),
        ({"url": InContext(None, None)}, {"NATS_URL": "of-env"}, "nats://of-selected"),
    ],
)
def test_where_the_url_comes_from(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], environ: Environ, url: str
) -> None:
    contexts.add("c", url="of-context")
    contexts.add("other", url="of-selected")
    contexts.add("without", token="t")
    contexts.select("other\n")
    assert settled(monkeypatch, given, environ).servers == (url,)


@pytest.mark.parametrize(
    ("given", "environ", "context", "login"),
    [
        # the first source that has any credentials has all of them
        ({"user": "u"}, {"NATS_TOKEN": "t"}, {}, {"user": "u"}),
        ({"token": "t"}, {"NATS_USER": "u", "NATS_PASSWORD": "p"}, {}, {"token": "t"}),
        ({"credentials": "a.creds"}, {"NATS_NKEY": "b.nk"}, {"user": "u"}, {"credentials": "a.creds"}),
        ({"nkeys_seed": "a.nk"}, {"NATS_CREDS": "b.creds"}, {"token": "t"}, {"nkeys_seed": "a.nk"}),
        ({}, {"NATS_TOKEN": "t"}, {"user": "u", "password": "p"}, {"token": "t"}),
        ({}, {"NATS_CREDS": "a.creds"}, {"user": "u", "password": "p"}, {"credentials": "a.creds"}),
        ({}, {"NATS_NKEY": "a.nk"}, {"creds": "b.creds"}, {"nkeys_seed": "a.nk"}),
        ({}, {"NATS_USER": "u"}, {"creds": "b.creds"}, {"user": "u"}),
        ({}, {}, {"creds": "b.creds"}, {"credentials": "b.creds"}),
        ({}, {}, {"nkey": "b.nk"}, {"nkeys_seed": "b.nk"}),
        ({}, {}, {"token": "t"}, {"token": "t"}),
        # what contradicts itself in a source that does not count, does not matter
        ({"token": "t"}, {"NATS_USER": "u", "NATS_CREDS": "no-such"}, {"user": "u", "token": "t"}, {"token": "t"}),
        # a user and its password may come from two sources, but not another user's password
        ({"user": "u"}, {"NATS_PASSWORD": "p"}, {}, {"user": "u", "password": "p"}),
        ({"user": "u"}, {"NATS_USER": "u", "NATS_PASSWORD": "p"}, {}, {"user": "u", "password": "p"}),
        ({"user": "u"}, {"NATS_USER": "v", "NATS_PASSWORD": "p"}, {}, {"user": "u"}),
        ({"user": "u"}, {"NATS_USER": "v", "NATS_PASSWORD": "p"}, {"password": "q"}, {"user": "u", "password": "q"}),
        ({"user": "u", "password": ""}, {"NATS_PASSWORD": "p"}, {}, {"user": "u", "password": ""}),
        ({"password": "p"}, {"NATS_USER": "u", "NATS_PASSWORD": "q"}, {}, {"user": "u", "password": "p"}),
        ({"password": "p"}, {}, {"user": "u", "password": "q"}, {"user": "u", "password": "p"}),
        ({}, {"NATS_PASSWORD": "p"}, {"user": "u", "password": "q"}, {"user": "u", "password": "p"}),
        ({}, {"NATS_USER": "u"}, {"user": "u", "password": "q"}, {"user": "u", "password": "q"}),
        ({}, {"NATS_USER": "v"}, {"user": "u", "password": "q"}, {"user": "v"}),
        # a URL's own credentials stand behind arguments, and before all else
        ({"url": "nats://a:b@h"}, {"NATS_USER": "u", "NATS_PASSWORD": "p"}, {"token": "t"}, {}),
        ({"url": "nats://t@h"}, {"NATS_PASSWORD": "p"}, {}, {}),
        ({"url": "h1,nats://a:b@h2"}, {"NATS_TOKEN": "t"}, {}, {}),
        ({"url": "nats://a:b@h", "token": "t"}, {"NATS_USER": "u"}, {}, {"token": "t"}),
        ({}, {"NATS_URL": "nats://a:b@h", "NATS_TOKEN": "t"}, {}, {}),
        ({}, {"NATS_TOKEN": "t"}, {"url": "nats://a:b@h", "user": "u"}, {}),
        ({"url": "h"}, {"NATS_TOKEN": "t"}, {}, {"token": "t"}),
    ],
)
def test_credentials_are_one_group(
    files: Path,
    contexts: Contexts,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
    environ: Environ,
    context: dict[str, Any],
    login: dict[str, Any],
) -> None:
    monkeypatch.chdir(files)
    if context:
        contexts.add("c", **context)
        environ = {**environ, "NATS_CONTEXT": "c"}
    assert login_of(settled(monkeypatch, given, environ)) == login


@pytest.mark.parametrize("name", ["c", None])
@pytest.mark.parametrize(
    ("values", "given", "login"),
    [
        ({}, {}, {}),
        ({"user": "u"}, {}, {"user": "u"}),
        ({"token": "t"}, {}, {"token": "t"}),
        ({"token": "t"}, {"user": "v"}, {"user": "v"}),
        ({"user": "u", "password": "p"}, {"user": "u"}, {"user": "u", "password": "p"}),
    ],
)
def test_a_context_takes_the_place_of_the_environment(
    contexts: Contexts,
    monkeypatch: pytest.MonkeyPatch,
    name: str | None,
    values: dict[str, Any],
    given: dict[str, Any],
    login: dict[str, Any],
) -> None:
    contexts.add("c", **values)
    contexts.select("c")
    environ = {"NATS_URL": "of-env", "NATS_USER": "u", "NATS_PASSWORD": "of-env", "NATS_CA": "no-such"}
    found = settled(monkeypatch, {"url": InContext("h", name), **given}, environ)
    assert (login_of(found), found.tls) == (login, None)


def test_nothing_of_the_environment_counts_where_it_is_not_trusted(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts.add("c", url="of-context", token="t")
    contexts.add("other", url="of-selected")
    contexts.select("other")
    environ = {
        "NATS_URL": "of-env", "NATS_USER": "u", "NATS_CREDS": "no-such", "NATS_CA": "no-such", "NATS_CONTEXT": "no-such"
    }  # fmt: skip
    assert settled(monkeypatch, {}, environ, trust_env=False) == Settings(servers=("nats://127.0.0.1:4222",))
    assert settle({"url": InContext(None, "c")}, False) == Settings(servers=("nats://of-context",), token="t")
    assert settle({"url": InContext(None, None)}, False).servers == ("nats://of-selected",)
    for make in (Connection, NATSEventBus, JetStreamEventStore):
        make("nats://h", trust_env=False)
        with pytest.raises(InvalidOptionError, match="'no-such'"):
            make("nats://h")


# -- what cannot be meant


@pytest.mark.parametrize(
    ("given", "environ", "words"),
    [
        ({"user": "u", "token": "t"}, {}, "user and token contradict each other"),
        ({"credentials": "x", "nkeys_seed": "y"}, {}, "credentials and nkeys_seed contradict each other"),
        ({}, {"NATS_USER": "u", "NATS_TOKEN": "a-secret"}, "NATS_USER and NATS_TOKEN contradict each other"),
        ({}, {"NATS_TOKEN": "a-secret", "NATS_CREDS": "x"}, "NATS_TOKEN and NATS_CREDS contradict each other"),
        ({"password": "a-secret"}, {}, "^password needs a user$"),
        ({"password": "a-secret"}, {"NATS_TOKEN": "t"}, "^password needs a user$"),
        ({"password": "a-secret", "url": "nats://a:b@h"}, {}, "^password needs a user$"),
        ({"password": "a-secret", "token": "a-secret"}, {}, "password needs a user, and contradicts token"),
        ({}, {"NATS_PASSWORD": "a-secret"}, "^NATS_PASSWORD needs a user$"),
        ({}, {"NATS_CREDS": "no/such"}, "NATS_CREDS is the path of a file, and there is none at 'no/such'"),
        ({}, {"NATS_NKEY": "no/such"}, "NATS_NKEY is the path of a file, and there is none at 'no/such'"),
        ({}, {"NATS_CA": "no/such"}, "NATS_CA is the path of a file, and there is none at 'no/such'"),
        ({}, {"NATS_KEY": "no/such"}, "NATS_KEY is the key of a certificate: name that, too, as NATS_CERT$"),
        ({}, {"NATS_CERT": __file__}, r"NATS_CERT \(.*\) does not have both .*: name its key as NATS_KEY$"),
        ({"tls_key": "no/such"}, {}, "tls_key is the key of a certificate: name that, too, as tls_cert"),
        ({}, {"NATS_URL": "http://a-secret@h"}, "NATS_URL: no server URL"),
        ({}, {"NATS_CONTEXT": "no-such"}, "there is no context 'no-such': no file '.*/nats/context/no-such.json'"),
        ({"url": InContext(None, None)}, {}, "no context is selected: '.*/nats/context.txt' names none"),
        ({"tls": "yes"}, {}, "tls must be an ssl.SSLContext, not str"),
        ({"token": 5}, {}, "token must be a str, not int"),
    ],
)
def test_what_is_refused(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], environ: Environ, words: str
) -> None:
    with pytest.raises(InvalidOptionError, match=words) as caught:
        settled(monkeypatch, given, environ)
    assert "a-secret" not in str(caught.value)


def test_a_tls_context_and_files_contradict_each_other_only_as_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    tls = ssl.create_default_context()
    with pytest.raises(InvalidOptionError, match="tls and tls_ca, tls_key contradict each other"):
        settle({"tls": tls, "tls_ca": "x", "tls_key": "y"}, False)
    assert settled(monkeypatch, {"tls": tls}, {"NATS_CA": "no-such", "NATS_KEY": "no-such"}).tls is tls


def test_a_seed_in_place_of_its_file_is_not_shown(monkeypatch: pytest.MonkeyPatch, contexts: Contexts) -> None:
    seed = Key(nkeys.PREFIX_BYTE_USER).seed
    contexts.add("c", nkey=seed)
    for given, environ in (({}, {"NATS_NKEY": seed}), ({}, {"NATS_CREDS": seed}), ({"url": InContext(None, "c")}, {})):
        with monkeypatch.context() as patch, pytest.raises(InvalidOptionError, match=r"and there is none$") as caught:
            settled(patch, given, environ)
        assert seed not in str(caught.value)


def test_paths_of_the_environment_and_of_contexts_are_expanded(
    files: Path, contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(files))
    monkeypatch.setenv("PLACE", str(files))
    assert settled(monkeypatch, {}, {"NATS_CREDS": "~/a.creds"}).credentials == str(files / "a.creds")
    monkeypatch.delenv("NATS_CREDS")
    for path in ("~/b.creds", "$PLACE/b.creds", "${PLACE}/b.creds", "file://~/b.creds", f"file://{files}/b.creds"):
        contexts.add("c", creds=path)
        assert settle({"url": InContext(None, "c")}, True).credentials == str(files / "b.creds")


# -- contexts


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"usr": "u"}, r"the context 'c' has keys that are not known: 'usr', in '.*c\.json'"),
        ({"b": 1, "a": "x"}, "not known: 'a', 'b'"),
        ({"user": 5}, "user of the context 'c' must be a text"),
        ({"password": ["a-secret"]}, "password of the context 'c' must be a text"),
        ({"tls_first": "yes"}, "tls_first of the context 'c' must be true or false"),
        ({"windows_ca_certs_match": "x"}, "windows_ca_certs_match of the context 'c' must be a list"),
        ({"user": "u", "token": "a-secret"}, "user of the context 'c' and token of the context 'c' contradict"),
        ({"creds": "x", "user_jwt": "a-secret"}, "creds of .* and user_jwt of .* contradict"),
        ({"password": "a-secret"}, "password of the context 'c' needs a user"),
        ({"user_jwt": "a-secret"}, "user_jwt of the context 'c' needs its seed, user_seed"),
        ({"url": "http://a-secret@h"}, "url of the context 'c': no server URL"),
        ({"url": "ws://h"}, "url of the context 'c': .*does not speak WebSocket"),
        ({"creds": "no/such"}, "creds of the context 'c' is the path of a file, and there is none at 'no/such'"),
        ({"creds": "nsc://o/a/u"}, "creds of the context 'c' asks the program 'nsc' for it"),
        ({"token": "op://vault/item"}, "token of the context 'c' asks the program 'op' for it"),
        ({"token": "env://NO_SUCH"}, "token of the context 'c' is in the environment's 'NO_SUCH', which is not set"),
        ({"token": "file:///no/such"}, "token of the context 'c' cannot be read from '/no/such': No such file"),
        ({"token": "data:;base64,a-secret"}, "token of the context 'c' is no data in base64"),
        ({"token": "data:;base64,/w=="}, "token of the context 'c' is no data in base64"),
        ({"token": "data:a-secret"}, "token of the context 'c' is no data in base64"),
        ({"ca": "env://CA"}, "ca of the context 'c' is in the environment's 'CA'"),
        ({"ca": "data:;base64,YWJj"}, "ca of the context 'c' must be the path of a file"),
        ({"nsc": "nsc://o/a/u"}, "nsc of the context 'c' cannot be used: name the server as url"),
        ({"nsc": "nsc://o/a/u", "url": "h"}, "nsc of the context 'c' cannot be used: name the file with the cred"),
        ({"socks_proxy": "socks5://h"}, "socks_proxy of the context 'c' cannot be used"),
        ({"windows_cert_store": "user"}, "windows_cert_store of the context 'c' cannot be used"),
    ],
)
def test_contexts_that_cannot_be_used(contexts: Contexts, values: dict[str, Any], words: str) -> None:
    contexts.add("c", **values)
    for make in (lambda: Connection.from_context("c"), lambda: settle({"url": InContext(None, "c")}, True)):
        with pytest.raises(InvalidOptionError, match=words) as caught:
            make()
        assert "a-secret" not in str(caught.value)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("values", "given"),
    [
        ({"nsc": "nsc://o/a/u", "url": "h", "creds": "a.creds"}, {}),
        ({"nsc": "nsc://o/a/u"}, {"url": "nats://u:p@h"}),
        ({"nsc": "nsc://o/a/u"}, {"url": "h", "user": "u"}),
        ({"socks_proxy": "none"}, {}),
        ({"windows_cert_store": "user"}, {"tls": ssl.create_default_context()}),
        ({"windows_cert_match": "x", "windows_ca_certs_match": ["y"], "windows_cert_match_by": "subject"}, {}),
        ({"jetstream_domain": "hub", "jetstream_event_prefix": "x"}, {}),
        ({"color_scheme": "x", "description": "y", "name": "z"}, {}),
        ({"a_key_of_a_later_version": "", "another": None, "and": False, "more": []}, {}),
        ({"creds": "nsc://o/a/u"}, {"token": "t"}),
    ],
)
def test_what_does_not_matter_is_no_error(
    files: Path, contexts: Contexts, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], given: dict[str, Any]
) -> None:
    monkeypatch.chdir(files)
    contexts.add("c", **values)
    url = given.pop("url", None)
    Connection.from_context("c", url, **given)


@pytest.mark.parametrize("key", ["jetstream_domain", "jetstream_api_prefix", "inbox_prefix"])
def test_a_context_with_another_jetstream_is_for_no_store(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    contexts.add("c", **{key: "x"})
    connection = Connection.from_context("c")
    NATSEventBus(connection)
    for make in (
        lambda: JetStreamEventStore(connection),
        lambda: settled(monkeypatch, {}, {"NATS_CONTEXT": "c"}) and JetStreamEventStore(),
    ):
        with pytest.raises(InvalidOptionError, match=f"{key} of the context 'c' cannot be used: a store uses"):
            make()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no JSON object: '.*c.json'"),
        ("{", "is no JSON object"),
        ('{"token": "a-secret",}', "is no JSON object"),
        ("[" * 100_000, "is no JSON object"),
        ("[]", "is no JSON object"),
        ('"a-secret"', "is no JSON object"),
        (b"\xff\xfe", "it is no UTF-8"),
        (b'{"token": "\xff"}', "it is no UTF-8"),
    ],
)
def test_files_that_are_no_contexts(contexts: Contexts, text: str | bytes, words: str) -> None:
    contexts.write("c", text)
    with pytest.raises(InvalidOptionError, match=f"^the context 'c' .*{words}") as caught:
        Connection.from_context("c")
    assert "a-secret" not in str(caught.value)
    assert not isinstance(caught.value.__context__, ValueError)  # an error of a decoder would have the whole text


@pytest.mark.parametrize("name", ["", "../c", "a/b", "a\\b", "..", "a\nb", "x" * 2000, 5, None, b"c"])
def test_names_that_no_context_has(contexts: Contexts, name: object) -> None:
    with pytest.raises(InvalidOptionError, match="context"):
        Connection.from_context(name)  # type: ignore[arg-type]


def test_a_context_is_a_directory_in_place_of_a_file(contexts: Contexts) -> None:
    contexts.write("c", "{}").unlink()
    (contexts.home / "nats" / "context" / "c.json").mkdir()
    with pytest.raises(InvalidOptionError, match=r"the context 'c' cannot be read from '.*': Is a directory"):
        Connection.from_context("c")


def test_a_named_pipe_is_not_waited_for(contexts: Contexts, tmp_path: Path) -> None:
    """Nobody ever writes to it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    os.mkfifo(tmp_path / "pipe.json")
    contexts.add("c", password=f"file://{pipe}", user="u")
    contexts.add("d", user_jwt=f"file://{pipe}", user_seed="SU")
    for name in ("c", "d"):
        with pytest.raises(InvalidOptionError, match=f"of the context '{name}' cannot be read from .*pipe': it is not"):
            Connection.from_context(name)
    for options in ({"credentials": pipe}, {"nkeys_seed": pipe}, {"tls_ca": pipe}):
        with pytest.raises(InvalidOptionError, match="is the path of a file, and there is none"):
            Connection(**options)
    with pytest.raises(InvalidOptionError, match="no context"):
        Connection.from_context(str(tmp_path / "pipe.json"))
    contexts.write("c", "").unlink()
    os.mkfifo(contexts.home / "nats" / "context" / "c.json")
    with pytest.raises(InvalidOptionError, match=r"the context 'c' cannot be read from .*: it is not a regular file"):
        Connection.from_context("c")
    os.mkfifo(contexts.home / "nats" / "context.txt")
    with pytest.raises(InvalidOptionError, match=r"the selected context cannot be read from .*: it is not a regular"):
        Connection.from_context()


def test_credentials_that_become_a_named_pipe_do_not_stop_the_loop(tmp_path: Path) -> None:
    file = tmp_path / "user.creds"
    file.write_text("")
    login = Login((), credentials=str(file))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(NotSentError, match="cannot be read: it is not a regular file"):
        login.fields("h", None, "nonce")
    assert login.doubt() == ""


def test_a_context_may_be_named_by_its_file(contexts: Contexts, tmp_path: Path) -> None:
    path = contexts.add("c", url="h").rename(tmp_path / "another.json")
    assert settle({"url": InContext(None, str(path))}, True).servers == ("nats://h",)
    with pytest.raises(InvalidOptionError, match=r"a path ends with \.json"):
        Connection.from_context(str(tmp_path / "no-such.json"))


def test_contexts_are_below_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contexts = Contexts(tmp_path / ".config")
    contexts.add("c", url="h")
    monkeypatch.setenv("HOME", str(tmp_path))
    for xdg in ("", None):
        monkeypatch.setenv("XDG_CONFIG_HOME", xdg) if xdg is not None else monkeypatch.delenv("XDG_CONFIG_HOME")
        assert settle({"url": InContext(None, "c")}, True).servers == ("nats://h",)


def test_the_case_of_a_key_does_not_matter(contexts: Contexts) -> None:
    contexts.write("c", '{"URL": "h", "User": "u"}')  # Go's decoder does not mind it
    assert settle({"url": InContext(None, "c")}, True).user == "u"


def test_where_a_secret_of_a_context_is(contexts: Contexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("s3cret\r\n")
    monkeypatch.setenv("A_SECRET", "s3cret")
    encoded = base64.b64encode(b"s3cret").decode()
    for value in (
        "s3cret", "env://A_SECRET", "ENV://A_SECRET", f"file://{tmp_path}/secret", f"data:;base64,{encoded}",
    ):  # fmt: skip
        contexts.add("c", user="u", password=value)
        assert settle({"url": InContext(None, "c")}, True).password == "s3cret"
    for literal in ("data", "env:A_SECRET", "nsc:x", "s:cret", "https://h", "file:x"):
        contexts.add("c", user="u", password=literal)
        assert settle({"url": InContext(None, "c")}, True).password == literal


def test_credentials_of_a_context_need_no_file(contexts: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    user = User(Account(Operator()))
    jwt, key = user.jwt(), Key(nkeys.PREFIX_BYTE_USER)
    monkeypatch.setenv("SEED", key.seed)
    contexts.add("c", user_jwt=jwt, user_seed="env://SEED")
    found = settle({"url": InContext(None, "c")}, True)
    assert isinstance(found.credentials, InMemory)
    assert jwt in found.credentials.text
    assert key.seed in found.credentials.text
    shown = f"{found!r} {found.credentials!r} {Connection.from_context('c')._options!r}"
    assert jwt not in shown
    assert key.seed not in shown
    contexts.add("d", nkey="env://SEED")
    seed = settle({"url": InContext(None, "d")}, True).nkeys_seed
    assert isinstance(seed, InMemory)
    assert seed.text == key.seed
    assert key.seed not in repr(seed)
