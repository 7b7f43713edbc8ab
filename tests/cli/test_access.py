"""The options of every command that say which server, and how it lets us in, against real servers."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import nkeys
import pytest

from aether_sync import InvalidOptionError, NATSServer
from aether_sync.cli._access import Access
from aether_sync.cli._commands import commands

from ..support.common import PATIENCE, first_of
from ..support.contexts import Contexts, contexts
from ..support.credentials import Account, Certificates, Key, Operator, User
from ..support.fake_server import FakeServer
from ..support.shell import Running, run
from ..support.sweep import Sweep, sweep

__all__ = ["contexts", "sweep"]

EVENT = b'{"eventType": "Opened", "actorId": "a-1"}\n'
OPTIONS = {
    "--url", "--context", "--no-env", "--creds", "--nkey", "--user", "--password", "--token", "--tlsca", "--tlscert",
    "--tlskey", "--timeout",
}  # fmt: skip
#: Commands that use no server, or the connection of the user's program.
WITHOUT = {"server", "example", "guide", "rebuild", "run"}

#: What a command is called with, and whether it reads events.
CALLS = {
    "pub": (["pub", "n"], EVENT),
    "append": (["append", "a-1"], EVENT),
    "events": (["events", "a-1"], b""),
    "actors": (["actors"], b""),
    "follow": (["follow", "--until-caught-up"], b""),
    "export": (["export"], b""),
    "import": (["import"], b""),
    "doctor": (["doctor"], b""),
    "health": (["health", "--timeout", "10"], b""),
    "demo": (["demo", "--seconds", "0.5", "--rate", "50"], b""),
}


@dataclass
class Way:
    """One way to be let in: as options, in the environment, as a context."""

    config: str
    options: list[str]
    environ: dict[str, str]
    context: dict[str, str]
    secrets: list[str] = field(default_factory=list)


def password_way(folder: Path) -> Way:
    (folder / "password").write_text("p@ss/w:rd\n")
    return Way(
        'authorization { users: [ { user: shop, password: "p@ss/w:rd" } ] }',
        ["--user", "shop", "--password", f"@{folder}/password"],
        {"NATS_USER": "shop", "NATS_PASSWORD": "p@ss/w:rd"},
        {"user": "shop", "password": "p@ss/w:rd"},
        ["p@ss/w:rd"],
    )


def token_way(folder: Path) -> Way:
    token = "t@ken/s3cret"
    (folder / "token").write_text(token)
    return Way(
        f'authorization {{ token: "{token}" }}',
        ["--token", f"@{folder}/token"],
        {"NATS_TOKEN": token},
        {"token": token},
        [token],
    )


def nkey_way(folder: Path) -> Way:
    key, path = Key(nkeys.PREFIX_BYTE_USER), str(folder / "user.nk")
    Path(path).write_text(key.seed)
    config = f"authorization {{ users: [ {{ nkey: {key.public} }} ] }}"
    return Way(config, ["--nkey", path], {"NATS_NKEY": path}, {"nkey": path}, [key.seed])


def creds_way(folder: Path) -> Way:
    operator = Operator()
    account, system = Account(operator), Account(operator)
    user, path = User(account), str(folder / "user.creds")
    Path(path).write_text(user.credentials())
    known = {account: account.jwt(mem_storage=-1, disk_storage=-1), system: system.jwt()}
    config = f"system_account: {system.key.public}\n{operator.config(known)}"
    return Way(config, ["--creds", path], {"NATS_CREDS": path}, {"creds": path}, [user.key.seed])


def certificate_way(folder: Path) -> Way:
    ours = Certificates(folder)
    (cert, key), ca = map(str, ours.issue("shop")), str(folder / "ca.pem")
    return Way(
        ours.config(more="verify: true"),
        ["--tlsca", ca, "--tlscert", cert, "--tlskey", key],
        {"NATS_CA": ca, "NATS_CERT": cert, "NATS_KEY": key},
        {"ca": ca, "cert": cert, "key": key},
        [Path(key).read_text().splitlines()[1]],
    )


WAYS = {
    "password": password_way, "token": token_way, "nkey": nkey_way, "creds": creds_way, "certificate": certificate_way,
}  # fmt: skip


@pytest.fixture(params=WAYS, scope="module")
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Way:
    return WAYS[request.param](tmp_path_factory.mktemp("way"))


@pytest.fixture(scope="module")
def guarded(way: Way) -> Iterator[NATSServer]:
    with NATSServer(config=way.config) as server:
        yield server


def called(arguments: list[str], stdin: bytes, sweep: Sweep, **environ: str) -> subprocess.CompletedProcess[str]:
    done = run(*arguments, stdin=stdin, COLUMNS="200", **environ)
    sweep.see(done.stdout, done.stderr)
    return done


def commands_with_a_server() -> list[click.Command]:
    return [command for name, command in commands.commands.items() if name not in WITHOUT]


def test_every_command_that_uses_a_server_has_the_options() -> None:
    for command in commands_with_a_server():
        options = {one for param in command.params for one in param.opts}
        assert options >= OPTIONS, f"{command.name} has no {OPTIONS - options}"
    assert {str(command.name) for command in commands_with_a_server()} == {*CALLS, "sub"}


@pytest.mark.parametrize("source", first_of(["options", "environment", "context"]))
def test_each_kind_of_credentials_from_each_source(
    way: Way, guarded: NATSServer, source: str, contexts: Contexts, sweep: Sweep
) -> None:
    sweep.hide(*way.secrets)
    contexts.add("prod", url=guarded.url, **way.context)
    options, environ = {
        "options": (["--url", guarded.url, *way.options], {}),
        "environment": ([], {"NATS_URL": guarded.url, **way.environ}),
        "context": (["--context", "prod"], {}),
    }[source]
    done = called(["pub", "n", *options], EVENT, sweep, **environ)
    assert done.returncode == 0, done.stderr
    assert "sent 1 event, confirmed" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_every_command_works_with_each_kind(way: Way, guarded: NATSServer, name: str, sweep: Sweep) -> None:
    sweep.hide(*way.secrets)
    arguments, stdin = CALLS[name]
    server = ["--url", guarded.url, *way.options]
    assert called(["append", "a-1", *server], EVENT, sweep).returncode == 0
    done = called([*arguments, *server], stdin, sweep)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_sub_works_with_each_kind(way: Way, guarded: NATSServer, tmp_path: Path) -> None:
    sub = Running(tmp_path, "sub", "n", "--count", "1", "--url", guarded.url, *way.options)
    sub.wait_for("subscribed to")
    assert run("pub", "n", "--url", guarded.url, *way.options, stdin=EVENT.decode()).returncode == 0
    assert sub.process.wait(PATIENCE) == 0


# -- secrets


@pytest.mark.slow
def test_a_wrong_secret_is_not_shown(tmp_path: Path, sweep: Sweep) -> None:
    sweep.hide("mistaken-secret")
    (tmp_path / "secret").write_text("mistaken-secret")
    with NATSServer(config='authorization { users: [ { user: shop, password: "right" } ] }') as server:
        for arguments in (
            ["pub", "n", "--user", "shop", "--password", f"@{tmp_path}/secret"],
            ["doctor", "--token", "mistaken-secret"],
        ):
            done = called([*arguments, "--url", server.url], EVENT, sweep)
            assert done.returncode == 1
            assert "refuses these credentials" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "'{path}' cannot be read: No such file or directory."),
        (b"", "'{path}' is empty, or too large for a secret."),
        (b"\n", "'{path}' is empty, or too large for a secret."),
        (b"x" * 100_000, "'{path}' is empty, or too large for a secret."),
        (b"a-secret\xff", "'{path}' has no text in UTF-8."),
    ],
)
def test_a_file_that_has_no_secret(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    (password,) = [one for one in commands.commands["pub"].params if "--password" in one.opts]
    with pytest.raises(click.BadParameter) as caught:
        password.process_value(click.Context(commands), f"@{path}")
    assert caught.value.message == words.format(path=path)


@pytest.mark.parametrize(
    ("content", "secret"), [(b"x\n", "x"), (b"x\r\n", "x"), (b" x \n\n", " x \n"), ("\N{EURO SIGN}".encode(), "\u20ac")]
)
def test_one_line_end_is_no_part_of_a_secret(tmp_path: Path, content: bytes, secret: str) -> None:
    (tmp_path / "secret").write_bytes(content)
    (token,) = [one for one in commands.commands["pub"].params if "--token" in one.opts]
    assert token.process_value(click.Context(commands), f"@{tmp_path}/secret") == secret


# -- the environment


@pytest.mark.slow
def test_no_secret_of_a_context_goes_to_a_server_of_the_environment_or_the_reverse(
    sweep: Sweep, contexts: Contexts
) -> None:
    sweep.hide("of-context", "of-env")
    with FakeServer() as meant, FakeServer() as other:
        contexts.add("c", url=meant.url, token="of-context")
        contexts.add("without", url=meant.url)
        environ = {"NATS_URL": other.url, "NATS_TOKEN": "of-env"}
        for context, options in (("c", ["--context", "c"]), ("without", ["--context", "without"])):
            assert called(["health", "--timeout", "10", *options], b"", sweep, **environ).returncode == 0
            (connect,) = [line for line in meant.last.lines if line.startswith(b"CONNECT")]
            assert b"of-env" not in connect
            assert (b"of-context" in connect) == (context == "c")
        assert (
            called(["health", "--timeout", "10", "--no-env", "--url", meant.url], b"", sweep, **environ).returncode == 0
        )
        assert not any(b"of-env" in line for line in meant.last.lines)
        assert other.peers == []


# -- wrong usage


def test_settings_that_cannot_be_used(sweep: Sweep, contexts: Contexts) -> None:
    sweep.hide("a-secret")
    contexts.add("c", url="h")
    done = called(["pub", "n", "--context", "c", "--user", "u", "--token", "a-secret"], EVENT, sweep)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--user and --token contradict each other" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"creds": "no/such"}, "^--creds is the path of a file, and there is none at 'no/such'"),
        ({"password": "x"}, "^--password needs a user"),
        ({"tlskey": "x"}, "^--tlskey is the key of a certificate: name that, too, as --tlscert$"),
        ({"context": "c", "tlscert": __file__}, "^--tlscert .*: name its key as --tlskey$"),
        ({"context": "c"}, "^key of the context 'c' is the key of .*: name that, too, as cert of the context 'c'$"),
    ],
)
def test_errors_call_options_by_their_names(contexts: Contexts, options: dict[str, str], words: str) -> None:
    contexts.add("c", key="" if "tlscert" in options else "no/such")
    with pytest.raises(InvalidOptionError, match=words):
        Access(**options).connection(1.0)


def test_the_demo_takes_no_credentials_for_a_server_of_its_own(sweep: Sweep) -> None:
    sweep.hide("a-secret")
    done = called(["demo", "--token", "a-secret"], b"", sweep)
    assert done.returncode == 2
    assert "name it with --url or --context" in done.stderr
