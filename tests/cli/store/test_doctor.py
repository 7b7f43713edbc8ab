"""``doctor``: what is wrong with a store is found and said."""

import json
import re
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from aether_sync import JetStreamEventStore, NATSServer
from aether_sync.stores._jetstream.error_codes import ErrorCode

from ...support.common import UNIT, Monitor
from ...support.inside import names_of
from ...support.lines import events_of, fill, lines_of
from ...support.shell import run
from ...support.stores import ask

Done = subprocess.CompletedProcess[str]


def findings(*args: str) -> tuple[int, dict[str, dict[str, str]]]:
    found: Done = run("doctor", "--json", *args)
    return found.returncode, {line["topic"]: line for line in lines_of(found.stdout)}


def test_doctor_of_a_store(options: list[str], store: JetStreamEventStore, monitor: Monitor) -> None:
    fill(store, events_of(10))
    status, found = findings("--monitor", f"http://127.0.0.1:{monitor.port}", *options)
    assert status == 0
    assert all(one["level"] == "ok" or one["topic"] == "sync to disk" for one in found.values()), found
    assert "10 records of 7 actors" in found["stream"]["message"]
    assert "every 120 s" in found["sync to disk"]["message"]
    assert found["clock"]["message"].startswith("within 0.0")
    plain = run("doctor", *options)
    assert plain.returncode == 0
    assert re.search(r"^ok    server: nats-server \d", plain.stdout, re.M)
    assert re.search(r"^warn  sync to disk: not seen.*\n      give --monitor", plain.stdout, re.M)


class Unwell(BaseHTTPRequestHandler):
    """What a monitoring port answers of a server that could not write (``/healthz`` of nats-server 2.15)."""

    server_id = ""

    def do_GET(self) -> None:
        is_health = self.path == "/healthz"
        self.send_response(503 if is_health else 200)
        self.end_headers()
        name = {"server_id": self.server_id, "version": "2.15.1", "num_routes": 0, "routes": []}
        varz = json.dumps(name).encode()
        self.wfile.write(b'{"status":"unavailable","error":"no space left on device"}' if is_health else varz)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_doctor_of_a_server_whose_disk_is_full(
    options: list[str], store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.connection.start()
    monkeypatch.setattr(Unwell, "server_id", store.connection.server_info()["server_id"])
    with HTTPServer(("127.0.0.1", 0), Unwell) as port:
        thread = threading.Thread(target=port.serve_forever)
        thread.start()
        status, found = findings("--monitor", f"http://127.0.0.1:{port.server_port}", *options)
        port.shutdown()
        thread.join()
    assert status == 1
    assert found["health"]["message"] == "no space left on device"
    assert "restart" in found["health"]["advice"]


def test_doctor_of_no_store_yet(options: list[str], store: JetStreamEventStore) -> None:
    status, found = findings(*options)
    assert status == 0
    assert found["stream"]["level"] == "ok"
    assert "there is no stream" in found["stream"]["message"]
    answer = ask(store, f"STREAM.INFO.{names_of(store).stream}")
    assert answer["error"]["err_code"] == ErrorCode.JSStreamNotFoundErr


def test_doctor_of_a_stream_that_is_no_store(options: list[str], store: JetStreamEventStore) -> None:
    body = {"name": names_of(store).stream, "subjects": [names_of(store).all_events], "max_bytes": 10_000}
    ask(store, f"STREAM.CREATE.{names_of(store).stream}", body)
    found = run("doctor", *options)
    assert found.returncode == 1
    assert found.stdout.count("bad   settings: ") > 2
    assert "ok    limits: max_bytes is 0% full" in found.stdout


@pytest.mark.slow
def test_doctor_without_jetstream_or_a_server(nowhere: str) -> None:
    accounts = "accounts { A: { users: [{user: u, password: p}] } }"
    with NATSServer(config=accounts) as server:
        status, found = findings("--url", server.url.replace("//", "//u:p@"), "--timeout", str(UNIT))
    assert status == 1
    assert found["jetstream"]["level"] == "bad"
    assert "stream" not in found
    status, found = findings("--url", nowhere, "--timeout", str(UNIT))
    assert status == 1
    assert found["connection"]["level"] == "bad"


def test_doctor_without_permissions(prefix: str) -> None:
    allowed = '{user: u, password: p, permissions: {publish: ["$JS.API.INFO"]}}'
    with NATSServer(config=f"authorization {{users: [{allowed}]}}") as server:
        status, found = findings("--url", server.url.replace("//", "//u:p@"), "--stream", prefix)
    assert status == 1
    assert "stream" not in found, "the permissions have told it"


def test_doctor_of_a_bus_alone() -> None:
    right = '["aether.events.a.>"]'
    rights = (
        f"authorization {{users: [{{user: u, password: p, permissions: {{publish: {right}, subscribe: {right}}}}}]}}"
    )
    with NATSServer(config=rights, jetstream=False) as server:
        url = server.url.replace("//", "//u:p@")
        status, found = findings("--bus", "--pattern", "a.>", "--url", url)
        assert (status, found["permissions"]["level"]) == (0, "ok")
        assert "jetstream" not in found
        refused = run("doctor", "--bus", "--pattern", "a.>", "--pattern", "b", "--url", url)
        assert refused.returncode == 1
        assert re.search(r"^bad   permissions: .*\n      grant publish aether.events.b$", refused.stdout, re.M)
    assert run("doctor", "--pattern", "a..b").returncode == 2
