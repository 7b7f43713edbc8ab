"""Commands of ``manage.py``, gunicorn and test runners: as processes, in a project in a folder of its own."""

import random
import re
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from aether_sync import ANY_VERSION, Event, JetStreamEventStore, NATSEventBus, NATSServer

from ...support.common import PATIENCE, FreePort, becomes, eventually
from ...support.django import Project

pytestmark = pytest.mark.slow

ROUNDS = 6


@pytest.fixture
def store(server: NATSServer, prefix: str) -> Iterator[JetStreamEventStore]:
    """The store of the project."""
    with JetStreamEventStore(server.url, prefix) as store:
        yield store


@pytest.fixture
def port() -> int:
    """A port for a web server."""
    with closing(FreePort()) as free:
        return free.number


@pytest.fixture(params=["sqlite", "postgres"])
def either(request: pytest.FixtureRequest, server: NATSServer, prefix: str, tmp_path: Path) -> Iterator[Project]:
    """The project, migrated, on SQLite and on PostgreSQL."""
    postgres = request.getfixturevalue("postgres_port") if request.param == "postgres" else None
    with Project(tmp_path, server.url, prefix, postgres) as project:
        project.migrate()
        yield project


def place(store: JetStreamEventStore, number: int) -> int:
    event = Event(event_type="OrderPlaced", actor_id=f"order-{number}")
    return store.append(event.actor_id, event, expected_version=ANY_VERSION)[0].sequence


def warnings_in(log: str) -> list[str]:
    """Return the warnings that are none of a web server's own."""
    lines = [line for line in log.splitlines() if "Warning" in line]
    return [
        line for line in lines if not re.search(r"unclosed <socket|subprocess \d+ is still|Enable tracemalloc", line)
    ]


def test_a_worker_and_two_relays_do_all_that_views_have_committed(
    either: Project, store: JetStreamEventStore, port: int
) -> None:
    worker = either.start("aether_worker", "--processes=2", "--threads=2", "--grace=5")
    relays = [either.start("aether_relay") for _ in range(2)]
    worker.wait_for("runs aether_sync.contrib.django.workers:default")
    web = either.start("-m", "gunicorn", "--preload", "--workers=2", "--bind", f"127.0.0.1:{port}", "wsgi")
    for number in range(20):
        assert web.get(f"http://127.0.0.1:{port}/buy/{number}") == "bought"
    eventually(lambda: store.last_sequence() == 20, "all in the store")
    store.consumer("mailer", event_types={"OrderPlaced"}).wait_for(20, timeout=PATIENCE)
    shown = either.run("shell", "-c", "from shop.models import *; print(Mail.objects.count(), Order.objects.count())")
    assert "20 20" in shown
    assert [one.end(signal.SIGTERM) for one in (*relays, worker)] == [0, 0, 0]
    assert web.end(signal.SIGTERM) == 0
    assert warnings_in(web.log + worker.log) == []
    shown = either.run(
        "shell", "-c", "from shop.models import *; print(sum(one.events for one in Balance.objects.all()))"
    )
    assert "20" in shown


#: Writes orders and what is to be stored of each, until it is killed.
WRITER = """
import uuid
from django.db import transaction
from shop.models import Order
from aether_sync import Event
from aether_sync.contrib.django import outbox

print("begun", flush=True)
while True:
    number = uuid.uuid4().hex
    with transaction.atomic():
        Order.objects.create(number=number)
        outbox.append(number, Event(event_type="OrderPlaced", actor_id=number), expected_version=0)
        outbox.append("all", Event(event_type="OrderCounted", actor_id="all", data={"number": number}))
"""


@pytest.mark.fault
def test_whatever_is_killed_when_each_committed_event_is_stored_once(
    either: Project, store: JetStreamEventStore
) -> None:
    for _ in range(ROUNDS):
        started = [either.start("shell", "-c", WRITER), *(either.start("aether_relay", "--batch=7") for _ in range(2))]
        started[0].wait_for("begun")
        time.sleep(random.uniform(0.05, 1.0))  # the moment is what is tested
        for one in random.sample(started, 3):
            one.end(signal.SIGKILL)
    either.run("aether_relay", "--once")
    shown = either.run("shell", "-v0", "-c", "from shop.models import Order; print(*Order.objects.values_list('pk'))")
    committed = sorted(re.findall(r"\w{32}", shown))
    assert len(committed) > ROUNDS
    found = [stored.event for stored in store.read_all(limit=1_000_000)]
    assert sorted(event.actor_id for event in found if event.actor_id != "all") == committed
    counted = [event for event in found if event.actor_id == "all"]
    assert sorted(event.data["number"] for event in counted if event.data) == committed
    assert [event.version for event in counted] == list(range(1, len(committed) + 1))


TERMINATE = """
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        " AND datname = current_database() AND backend_type = 'client backend'"
    )
    print(len(cursor.fetchall()), "ended")
"""

APPEND = """
from django.db.transaction import atomic
from aether_sync import Event
from aether_sync.contrib.django import outbox
with atomic():
    outbox.append("order-1", Event(event_type="OrderPlaced", actor_id="order-1"))
"""


@pytest.mark.fault
@pytest.mark.parametrize("either", ["postgres"], indirect=True)
def test_a_relay_survives_the_loss_of_its_connections(either: Project, store: JetStreamEventStore) -> None:
    relay = either.start("aether_relay")
    for number in range(1, 3):
        either.run("shell", "-v0", "-c", APPEND)
        becomes(store.last_sequence, number)
        assert either.run("shell", "-v0", "-c", TERMINATE) != "0 ended\n"
    either.run("shell", "-v0", "-c", APPEND)
    becomes(store.last_sequence, 3)
    assert relay.end(signal.SIGTERM) == 0
    assert "tries again" in relay.log


def change_until(restarted: Callable[[], bool], path: Path) -> None:
    """Change a file until the reloader sees it: what changes before its first look is not seen by any later one."""
    end = time.monotonic() + 3 * PATIENCE
    while time.monotonic() < end:
        path.write_text(path.read_text() + "\n# changed\n")
        with suppress(AssertionError):
            return eventually(restarted, "the restart")
    raise AssertionError(f"no restart after {path} was changed")


def test_a_worker_starts_anew_when_a_file_changes(project: Project, store: JetStreamEventStore) -> None:
    project.migrate()
    worker = project.start("aether_worker", "--reload")
    worker.wait_for("runs aether_sync.contrib.django.workers:default")
    events = project.folder / "shop" / "events.py"
    events.write_text(events.read_text().replace("order=event.actor_id", "order=event.actor_id + ' anew'"))
    change_until(lambda: "starting anew" in worker.log, events)
    eventually(lambda: worker.log.count("runs aether_sync") >= 2, "the second start")
    place(store, 1)
    store.consumer("mailer", event_types={"OrderPlaced"}).wait_for(1, timeout=PATIENCE)
    assert "order-1 anew" in project.run("shell", "-c", "from shop.models import Mail; print(Mail.objects.get().order)")
    assert worker.end(signal.SIGINT) == 0


def test_the_reloader_of_runserver_ends_and_starts_the_bus(
    project: Project, server: NATSServer, prefix: str, port: int
) -> None:
    project.migrate()
    web = project.start("runserver", f"127.0.0.1:{port}")
    first = web.get(f"http://127.0.0.1:{port}/process")
    with NATSEventBus(server.url, prefix=f"{prefix}-bus") as bus, bus.subscribe("orders") as orders:
        web.get(f"http://127.0.0.1:{port}/announce/1")
        assert orders.get(timeout=PATIENCE).actor_id == "order-1"
        anew = lambda: web.get(f"http://127.0.0.1:{port}/process") != first  # noqa: E731
        change_until(anew, project.folder / "shop" / "views.py")
        web.get(f"http://127.0.0.1:{port}/announce/2")
        assert orders.get(timeout=PATIENCE).actor_id == "order-2"
    web.end(signal.SIGINT, group=True)
    assert warnings_in(web.log) == []
    assert "Traceback" not in web.log


def test_a_web_server_starts_and_answers_without_a_server(tmp_path: Path, prefix: str, port: int) -> None:
    with closing(FreePort()) as free:
        url = f"nats://127.0.0.1:{free.number}"
    with Project(tmp_path, url, prefix) as project:
        project.migrate()
        project.run("check")
        web = project.start("-m", "gunicorn", "--threads=4", "--bind", f"127.0.0.1:{port}", "wsgi")
        web.get(f"http://127.0.0.1:{port}/process")
        began = time.monotonic()
        assert web.get(f"http://127.0.0.1:{port}/announce/1") == "announced"
        assert web.get(f"http://127.0.0.1:{port}/buy/2") == "bought"
        assert time.monotonic() - began < 5.0
        worker = project.start("aether_worker")
        relay = project.start("aether_relay")
        relay.wait_for("sending the outbox")
        with NATSServer(port=free.number), JetStreamEventStore(url, prefix) as store:
            worker.wait_for("runs aether_sync")
            eventually(lambda: store.last_sequence() == 1, "what was bought")
            store.consumer("mailer", event_types={"OrderPlaced"}).wait_for(1, timeout=PATIENCE)
            assert [one.end(signal.SIGTERM) for one in (relay, worker, web)] == [0, 0, 0]


def test_a_view_of_asgi_streams(project: Project, server: NATSServer, prefix: str, port: int) -> None:
    pytest.importorskip("uvicorn")
    project.migrate()
    web = project.start("-m", "uvicorn", "--port", f"{port}", "asgi:application")
    web.get(f"http://127.0.0.1:{port}/process")
    with (
        NATSEventBus(server.url, prefix=f"{prefix}-bus") as bus,
        urllib.request.urlopen(f"http://127.0.0.1:{port}/live", timeout=PATIENCE) as answer,
    ):
        assert answer.readline() == b": begin\n"
        bus.publish("orders", Event(event_type="OrderPlaced", actor_id="order-1"))
        assert [answer.readline() for _ in range(2)] == [b"\n", b"data: order-1\n"]


def test_a_live_page_of_asgi_is_told_all_and_does_not_hold_up_the_stop(
    project: Project, store: JetStreamEventStore, port: int
) -> None:
    pytest.importorskip("uvicorn")
    project.migrate()
    web = project.start("-m", "uvicorn", "--port", f"{port}", "asgi:application")
    web.get(f"http://127.0.0.1:{port}/place/1")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/events?after=0", timeout=PATIENCE) as answer:
        assert b"id: 1\n" in iter(answer.readline, b"")
        assert web.end(signal.SIGTERM) in (0, -signal.SIGTERM)  # uvicorn raises it again when all has ended
        assert answer.read().rstrip()  # the rest of the event, and no error
    assert "Traceback" not in web.log


@pytest.mark.parametrize("parallel", ["--parallel=2", "--parallel=1"])
def test_the_tests_of_the_project_pass_under_djangos_runner(either: Project, parallel: str) -> None:
    said = either.run("test", parallel, "--shuffle=1")
    assert re.search(r"Ran 7 tests in .*\n\nOK", said), said


def test_the_tests_of_the_project_pass_under_pytest_django(project: Project) -> None:
    said = project.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "--ds=site_settings", "-p",
                       "no:asyncio", "pytest_shop.py")  # fmt: skip
    assert "2 passed" in said


def test_the_migrations_are_those_of_the_models(project: Project) -> None:
    assert "No changes detected" in project.run("makemigrations", "--check", "--dry-run", "aether_sync")


def test_a_projection_is_built_anew(project: Project, store: JetStreamEventStore) -> None:
    project.migrate()
    for _ in range(3):
        place(store, 1)
    worker = project.start("aether_worker")
    worker.wait_for("runs aether_sync")
    change = "from shop.models import Balance; Balance.objects.update(events=99); print(Balance.objects.count())"
    eventually(lambda: "1" in project.run("shell", "-c", change), "the row")
    assert "projection 'balances' is built anew, up to sequence 3" in project.run("aether_rebuild", "balances")
    assert "3" in project.run("shell", "-c", "from shop.models import Balance; print(Balance.objects.get().events)")
    assert "There is no @projection('balance') for" in project.run("aether_rebuild", "balance", status=1)
    assert worker.end(signal.SIGTERM) == 0


def test_mistakes_are_told_by_check(project: Project) -> None:
    events = project.folder / "shop" / "events.py"
    good = events.read_text()
    events.write_text(good + "\n\n@handler('mailer')\ndef again(event: Event): ...\n")
    said = project.run("check", status=1)
    assert "(aether.E004)" in said
    assert "mailer" in said
    assert "again" in said
    for mistake in (
        "@handler('a', evnt_types={'A'})\ndef f(event: Event): ...",
        "@handler('a')\nasync def f(event): ...",
        "@handler('a', once=True)\nasync def f(event): ...",
        "@on('a.*', alias='audit')\ndef f(event): ...",
        "@handler('a', once=True, using='x')\ndef f(event): ...",
        "@handler('a')\ndef f(a, b): ...",
    ):
        events.write_text(f"{good}\n\n{mistake}\n")
        said = project.run("check", status=1)
        assert said.count("(aether.E004)") == 1, said
        assert "Traceback" not in said
    events.write_text(good)
    assert "no issues" in project.run("check")


def test_a_worker_says_what_is_missing(project: Project) -> None:
    assert "lacks the migrations aether_sync.0001_initial: run manage.py migrate" in project.run(
        "aether_worker", status=1
    )
    project.migrate()
    assert "The setting AETHER has no alias 'audit'" in project.run("aether_worker", "audit", status=1)
    (project.folder / "shop" / "events.py").write_text("")
    assert "There is nothing to do for AETHER['default']" in project.run("aether_worker", status=1)
