"""Contexts of the nats command line, as it keeps them."""

import json
from pathlib import Path

import pytest

__all__ = ["Contexts", "contexts"]


class Contexts:
    """A directory for the configuration of the nats command line."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._folder = home / "nats"
        (self._folder / "context").mkdir(parents=True)

    def add(self, name: str, /, **values: object) -> Path:
        """Write a context as the nats command line does: with all keys."""
        empty = dict.fromkeys(
            ("description", "url", "socks_proxy", "token", "user", "password", "creds", "nkey", "cert", "key", "ca",
             "nsc", "jetstream_domain", "jetstream_api_prefix", "jetstream_event_prefix", "inbox_prefix", "user_jwt",
             "user_seed", "color_scheme", "windows_cert_store", "windows_cert_match_by", "windows_cert_match"),
            "",
        )  # fmt: skip
        values = {**empty, "tls_first": False, "windows_ca_certs_match": None, **values}
        return self.write(name, json.dumps(values, indent=2))

    def write(self, name: str, text: str | bytes) -> Path:
        """Write the file of a context."""
        path = self._folder / "context" / f"{name}.json"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def select(self, name: str) -> None:
        """Select a context, as ``nats context select`` does."""
        (self._folder / "context.txt").write_text(name)


@pytest.fixture
def contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Contexts:
    """The contexts that this process and its children find."""
    home = tmp_path / "config"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    return Contexts(home)
