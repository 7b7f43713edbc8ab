"""Settings are checked when an application is registered, and each error names the setting."""

import ssl
from pathlib import Path

import pytest
from flask import Flask

from aether_sync import EventTypes, InvalidOptionError, JetStreamEventStore, NATSEventBus
from aether_sync.connection import OPTIONS
from aether_sync.contrib.flask import Aether
from aether_sync.contrib.flask._settings import _KEYS, _OF_A_CONNECTION

from .conftest import MakeApp

SERVER = "nats://127.0.0.1:1"  # where none is


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"AETHER_STREEM": "x"}, "no setting 'AETHER_STREEM': did you mean AETHER_STREAM?"),
        ({"AETHER_OUTBOX": 1}, "did you mean AETHER_OUTBOX_EVENTS?"),
        ({"AETHER_XQJW_Z": 1}, "it has AETHER_URL, AETHER_CONTEXT, "),
        ({"AETHER_URL": 7}, "AETHER_URL must be a str, not int"),
        ({"AETHER_URL": b"nats://a"}, "AETHER_URL must be a str, not bytes"),
        ({"AETHER_URL": "http://shop"}, "AETHER_URL: no server URL"),
        ({"AETHER_URL": ["nats://a", 1]}, "AETHER_URL: "),
        ({"AETHER_URL": "memory"}, "AETHER_URL is 'memory': for a bus and a store in memory it must be 'memory:'"),
        ({"AETHER_URL": ":memory:"}, "it must be 'memory:'"),
        ({"AETHER_PREFIX": "a b"}, "AETHER_PREFIX 'a b' has a space"),
        ({"AETHER_STREAM": ""}, "AETHER_STREAM must be "),
        ({"AETHER_NAMESPACE": ""}, "AETHER_NAMESPACE must be "),
        ({"AETHER_NAMESPACE": 5}, "AETHER_NAMESPACE must be a str, not int"),
        (
            {"AETHER_URL": SERVER, "AETHER_TOKEN": 123},
            "AETHER_TOKEN must be a str, not int. In the ",
        ),
        ({"AETHER_URL": SERVER, "AETHER_PASSWORD": "s3cret"}, "AETHER_PASSWORD needs a user"),
        ({"AETHER_URL": SERVER, "AETHER_OUTBOX_EVENTS": 0}, "AETHER_OUTBOX_EVENTS must be a whole number, 1 or more"),
        (
            {"AETHER_URL": SERVER, "AETHER_OUTBOX_EVENTS": "10x"},
            "OUTBOX_EVENTS must be a whole number, not '10x'",
        ),
        (
            {"AETHER_URL": SERVER, "AETHER_CONNECT_TIMEOUT": "soon"},
            "AETHER_CONNECT_TIMEOUT must be a number of seconds",
        ),
        ({"AETHER_URL": SERVER, "AETHER_CONNECT_TIMEOUT": "nan"}, "AETHER_CONNECT_TIMEOUT must be a number of seconds"),
        ({"AETHER_URL": SERVER, "AETHER_CONNECT_TIMEOUT": -1}, "AETHER_CONNECT_TIMEOUT must be seconds, more than 0"),
        (
            {"AETHER_URL": SERVER, "AETHER_TLS_HANDSHAKE_FIRST": "yes"},
            "AETHER_TLS_HANDSHAKE_FIRST must be true or",
        ),
        (
            {"AETHER_URL": SERVER, "AETHER_ON_DISCONNECT": "wait"},
            "AETHER_ON_DISCONNECT must be one of 'buffer'",
        ),
        ({"AETHER_URL": SERVER, "AETHER_REPLICAS": 0}, "AETHER_REPLICAS must be a whole number, 1 or more"),
        ({"AETHER_URL": SERVER, "AETHER_CREDENTIALS": "/nowhere/a"}, "AETHER_CREDENTIALS is the path of a file, and "),
        ({"AETHER_URL": SERVER, "AETHER_TLS": "x"}, "AETHER_TLS must be an ssl.SSLContext"),
        ({"AETHER_URL": None, "AETHER_CONTEXT": "none"}, "of this app cannot be used: there is no context 'none'"),
        ({"AETHER_URL": SERVER, "AETHER_REPLICAS": 9}, "AETHER_REPLICAS must be a whole number, 1 or more, at most 5"),
        ({"AETHER_URL": "MEMORY:"}, "AETHER_URL is 'MEMORY:': for a bus and a store in memory it must be 'memory:'"),
        ({"AETHER_STREAM": "aether", "AETHER_URL": SERVER}, "of this app cannot be used: "),
        ({"AETHER_STREAM": "aether", "AETHER_PREFIX": "x"}, "of this app cannot be used: "),  # in memory
        ({"AETHER_STREAM": "shop", "AETHER_PREFIX": "shop"}, "would keep what a bus with prefix"),  # in memory
        (
            {"AETHER_STREAM": "shop", "AETHER_PREFIX": "shop", "AETHER_URL": SERVER},
            "would keep what a bus with prefix",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_setting_that_cannot_be_used_is_named(make_app: MakeApp, settings: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        make_app(**settings)
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        ({"PREFIX": "shop"}, {"STREAM": "shop", "PREFIX": "b"}, "AETHER_STREAM"),
        ({"STREAM": "shop", "PREFIX": "b"}, {"PREFIX": "shop", "STREAM": None}, "AETHER_PREFIX"),
    ],
)
def test_a_prefix_is_not_the_stream_of_another_app(
    aether: Aether, make_app: MakeApp, first: dict[str, object], second: dict[str, object], named: str
) -> None:
    def make(settings: dict[str, object], **others: object) -> Flask:
        return make_app(**{f"AETHER_{name}": value for name, value in (settings | others).items()})

    other = make(first, URL=SERVER)
    with pytest.raises(InvalidOptionError, match=f"{named} is 'shop', as AETHER_.* of another app at this server is"):
        make(second, URL=SERVER)
    make(second, URL="nats://127.0.0.1:2")  # at another server
    make(second)  # in memory
    if named == "AETHER_STREAM":
        make(second, URL=SERVER, NAMESPACE="tenant")  # its subjects begin otherwise
    aether.close(other)
    make(second, URL=SERVER)


def test_each_option_of_a_connection_is_a_setting() -> None:
    assert set(_OF_A_CONNECTION) - {"url", "context"} == set(OPTIONS) - {"connect"}  # which is "background" here


def test_what_the_environment_says_is_converted(monkeypatch: pytest.MonkeyPatch, aether: Aether) -> None:
    for name, value in {
        "URL": '["nats://127.0.0.1:1", "nats://127.0.0.1:2"]',
        "STREAM": "shop",
        "REPLICAS": "3",
        "OUTBOX_EVENTS": '"1000"',
        "CONNECT_TIMEOUT": "0.5",
        "TRUST_ENV": "False",  # which is not how JSON writes it
        "PREFIX": '"7"',
    }.items():
        monkeypatch.setenv(f"FLASK_AETHER_{name}", value)
    app = Flask(__name__)
    app.config.from_prefixed_env()
    aether.init_app(app)
    with app.app_context():
        bus, store = aether.bus, aether.store
        assert isinstance(bus, NATSEventBus)
        assert isinstance(store, JetStreamEventStore)
        assert (bus.prefix, store.stream) == ("7", "shop")
        assert store.connection is bus.connection


def test_a_slip_of_capitals_is_named(monkeypatch: pytest.MonkeyPatch, aether: Aether) -> None:
    monkeypatch.setenv("FLASK_AETHER_stream", "shop")
    app = Flask(__name__)
    app.config.from_prefixed_env()
    with pytest.raises(InvalidOptionError, match=r"no setting 'AETHER_stream': did you mean AETHER_STREAM\?"):
        aether.init_app(app)


def test_a_store_is_left_out_if_its_stream_is_none(monkeypatch: pytest.MonkeyPatch, aether: Aether) -> None:
    monkeypatch.setenv("FLASK_AETHER_STREAM", "null")
    app = Flask(__name__)
    app.config.from_prefixed_env()
    aether.init_app(app)
    with app.app_context():
        with pytest.raises(RuntimeError, match="has no event store: its AETHER_STREAM is None"):
            _ = aether.store
        assert len(aether.health(timeout=0).parts) == 1
        aether.close()


def test_in_memory_no_file_is_looked_for(make_app: MakeApp) -> None:
    make_app(AETHER_CREDENTIALS="/run/secrets/none", AETHER_TLS=ssl.create_default_context(), AETHER_REPLICAS=3)


def test_nothing_is_shown_of_a_secret(make_app: MakeApp) -> None:
    app = make_app(AETHER_URL="nats://shop:s3cret@127.0.0.1:1")
    assert "s3cret" not in repr(app.extensions["aether"].settings)


def test_the_guide_has_every_setting() -> None:
    guide = (Path(__file__).parents[3] / "aether_sync" / "guide" / "flask.md").read_text()
    assert [key for key in _KEYS.values() if f"`{key}`" not in guide] == []


@pytest.mark.parametrize("wrong", [None, object(), "app"])
def test_only_an_application_is_registered(aether: Aether, wrong: object) -> None:
    with pytest.raises(InvalidOptionError, match="takes a Flask application"):
        aether.init_app(wrong)  # type: ignore[arg-type]


def test_types_are_checked() -> None:
    with pytest.raises(InvalidOptionError, match="types must be EventTypes, not 'x'"):
        Aether(types="x")  # type: ignore[arg-type]
    assert repr(Aether(types=EventTypes())) == "<Aether>"
