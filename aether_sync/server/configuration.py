"""What a ``NATSServer`` was told: the text of its configuration file, its command line and its URL."""

import json
import os
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from .._arguments import check_text, is_of
from .._values.shown import short
from ..errors import InvalidOptionError

__all__ = ["LOOPBACK", "Configuration", "check_config", "check_host", "in_url", "new_name"]

LOOPBACK = "127.0.0.1"
_numbers = count(1)


@dataclass(eq=False, slots=True, kw_only=True)
class Configuration:
    """The configuration of one server. Its port may be chosen later, and its text may change between two starts."""

    name: str
    host: str
    port: int  # 0 as long as it is to be chosen
    jetstream: bool
    text: str  # as the user gave it; it may hold secrets, and is never shown
    added: str = ""  # what a cluster adds to it
    store_dir: Path | None = None  # where JetStream keeps its data; None for the server's directory

    @property
    def reachable_host(self) -> str:
        """Where clients of this machine reach a server that listens on this host."""
        return {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self.host, self.host)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{in_url(self.reachable_host)}:{self.port}"

    def write(self, directory: Path) -> None:
        """Write the file that the server reads when it starts, and when it is told to reload."""
        # The name is not on the command line: a server that is told to reload would then refuse to lose it.
        text = f"{self.text}\nserver_name: {json.dumps(self.name)}\n{self.added}\n"
        _file_in(directory).write_text(text)

    def command(self, binary: str, directory: Path, log: Path) -> list[str]:
        """Return the command line of a server that reads that file; what stands here wins over what stands there."""
        command = [binary, "-c", str(_file_in(directory)), "-l", str(log), "-a", self.host, "-p", str(self.port)]
        if self.jetstream:
            command += ["-js", "-sd", str(self.store_dir or directory)]
        return command


def _file_in(directory: Path) -> Path:
    return directory / "server.conf"


def check_config(config: object) -> str:
    """Return the text of a configuration.

    Raises:
        InvalidOptionError: It is no text. The error does not show it, as it may hold secrets.
    """
    if not is_of(config, str):
        raise InvalidOptionError(f"config must be the text of a configuration, not {type(config).__name__}")
    return str.__str__(config)


def check_host(host: object) -> str:
    """Return an address to listen on.

    Raises:
        InvalidOptionError: It is no text, an empty one, or nothing that can be a name.
    """
    text = check_text("host", host)
    if not text:
        raise InvalidOptionError(f"host must be a non-empty str, not {short(host)}")
    try:
        text.encode("idna")  # as getaddrinfo() does
    except UnicodeError as error:
        raise InvalidOptionError(f"host cannot be a name or an address: {short(text)}") from error
    return text


def new_name() -> str:
    """Return a name that no other server has."""
    return f"aether-{os.getpid()}-{next(_numbers)}-{os.urandom(3).hex()}"


def in_url(host: str) -> str:
    """Return a host as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host
