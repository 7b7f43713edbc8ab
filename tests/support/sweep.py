"""Looks for secrets in everything that a run shows: logs of all levels, reprs, errors with tracebacks, output."""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import pytest

from aether_sync import AetherError, Connection, NATSEventBus
from aether_sync._nats.servers import Servers


class Sweep:
    """Remembers what was shown. Which secrets there are may be told at any time before the end."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._secrets: set[str] = set()

    def hide(self, *secrets: str) -> None:
        """Name secrets that must not be seen. A JWT counts in each of its parts."""
        for secret in secrets:
            for part in (secret, *secret.split(".")):
                if len(part) > 4:  # none that turns up by chance
                    self._secrets |= {part, quote(part, safe=""), repr(part)[1:-1]}

    def see(self, *shown: object) -> None:
        """Keep what an object shows of itself, by all the ways that are usual in logs and error reports."""
        for one in shown:
            self._shown += [repr(one), str(one)]
            if isinstance(one, BaseException):
                self._shown.append("".join(traceback.format_exception(one)))
            if isinstance(one, NATSEventBus):
                self.see(one.connection, one.metrics())
            if isinstance(one, Connection):
                servers = Servers(one._options.servers)._known.values()
                self.see(one._options, *map(one._options.for_nats, servers))  # nats-py is not trusted with any

    @contextmanager
    def failing(self, kind: type[AetherError], match: str) -> Iterator[None]:
        """Expect an error, and keep what it shows."""
        with pytest.raises(kind, match=match) as caught:
            yield
        self.see(caught.value)

    def check(self, more: str) -> None:
        """Fail if a secret was shown."""
        shown = "\n".join([*self._shown, more])
        assert self._secrets, "no secret was named"
        for secret in self._secrets:
            at = shown.find(secret)
            assert at < 0, f"a secret is shown: {shown[max(0, at - 300) : at + len(secret) + 100]}"


@pytest.fixture
def sweep(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sweep]:
    """Look for secrets in all that the test shows, everything at DEBUG, with asyncio in its debug mode."""
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    levels = {name: logging.getLogger(name).level for name in ("", "aether_sync", "asyncio", "nats")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.DEBUG)
    sweep = Sweep()
    yield sweep
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    out, err = capfd.readouterr()
    records = [logging.Formatter("%(name)s %(message)s").format(record) for record in caplog.get_records("call")]
    sweep.check("\n".join([out, err, *records]))
