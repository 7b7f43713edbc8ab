"""``aether-sync example shop``: what it writes compiles, passes its own tests, and runs by one command."""

import ast
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.error import HTTPError

import pytest
from flask import Flask
from flask.testing import FlaskClient

from aether_sync import NO_EVENTS, Event, JetStreamEventStore

from ...support.common import PATIENCE, FreePort, eventually, first_of
from ...support.shell import environment, run
from .serving import BOOT, Shop, serving, write_shop

FRAMEWORKS = pytest.mark.parametrize("framework", ["flask", "django"])
GUIDE = Path(__file__).parents[3] / "aether_sync" / "guide" / "order-service.md"


@pytest.fixture
def imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets a package named shop be imported, though other tests have another one, and forgets it."""

    def found() -> list[str]:
        return [one for one in sys.modules if one.partition(".")[0] == "shop"]

    for name in found():
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in found():
        del sys.modules[name]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shop with Flask, as the command writes it; nobody changes it."""
    folder = tmp_path_factory.mktemp("shop") / "new"
    write_shop(folder, "flask")
    return folder


@pytest.fixture
def client(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imports: None) -> Iterator[FlaskClient]:
    """A client of the shop with Flask, whose events are in the memory of this process."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FLASK_AETHER_URL", "memory:")
    monkeypatch.setenv("FLASK_TESTING", "true")
    from shop import web  # type: ignore[import-not-found]

    app: Flask = web.create_app()
    with app.app_context():
        yield app.test_client()
    web.aether.close(app)


def test_the_shop_answers_with_its_events_in_memory(client: FlaskClient) -> None:
    form = {"customer": "Ada", "items": "3", "article": "tea"}
    key = {"Idempotency-Key": "a"}
    assert [client.post("/orders/7", data=form, headers=key).status_code for _ in range(2)] == [204, 204]
    assert client.post("/orders/7", data=form).status_code == 409
    assert client.post("/orders/8", data=form | {"items": "x"}).text.startswith("an order is of a customer")
    assert client.post("/orders/8", data={"items": "x"}).status_code == 400
    assert [client.post("/orders/7/ship").status_code for _ in range(2)] == [204, 204]
    assert client.post("/orders/9/ship").text == "there is no such order"
    assert client.get("/orders").json == {"orders": [], "after": 0}
    with client.get("/") as page, client.get("/page/page.js") as script:
        assert b"<title>The shop</title>" in page.data
        assert b"EventSource" in script.data
    with client.get("/events?after=1") as answer:
        events = iter(answer.iter_encoded())
        assert b"id: 2\nevent: OrderShipped\n" in next(events) + next(events)
    assert client.get("/events?after=3").status_code == 400
    assert client.get("/healthz").status_code == 200


TOO_MUCH = [{"customer": "c" * 101}, {"article": "a\0"}, {"items": "9" * 5_000}]


def test_what_the_table_has_no_room_for_is_refused(client: FlaskClient) -> None:
    form = {"customer": "Ada", "items": "3", "article": "tea"}
    for number in (0, 10**9, 10**22):
        assert client.post(f"/orders/{number}", data=form).status_code == 409, number
    for other in TOO_MUCH:
        assert client.post("/orders/1", data=form | other).status_code == 409, list(other)
    assert client.get("/events?after=1").status_code == 400  # nothing is stored


@pytest.mark.parametrize("framework", first_of(["flask", "django"]))
def test_what_is_written_compiles(framework: str, written: Path, tmp_path: Path) -> None:
    folder = written
    if framework == "django":
        folder = tmp_path / "new"
        write_shop(folder, framework)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files >= {"README.md", "run.py", "Procfile", "gunicorn.conf.py", "shop/orders.py", "shop/page/page.js"}
    for path in folder.rglob("*.py"):
        compile(path.read_text(), path, "exec")
    assert not [one for one in files if "__pycache__" in one]


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    done = run("example", "shop", str(tmp_path))
    assert done.returncode == 2
    assert f"'{tmp_path}' is not empty: name a new folder" in done.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["mine"]


def definitions(text: str) -> dict[str, str]:
    """Return what a program defines, by name."""
    kinds = ast.ClassDef, ast.FunctionDef
    return {one.name: ast.unparse(one) for one in ast.parse(text).body if isinstance(one, kinds)}


def test_the_guide_decides_as_the_shop_does(written: Path) -> None:
    program = GUIDE.read_text().split("```python\n")[1].partition("```")[0]
    shop, guide = definitions((written / "shop" / "orders.py").read_text()), definitions(program)
    assert shop.keys() <= guide.keys()
    assert {name: guide[name] for name in shop} == shop


@pytest.mark.slow
@FRAMEWORKS
def test_what_is_written_passes_its_tests_and_checks(framework: str, tmp_path: Path) -> None:
    write_shop(tmp_path, framework)
    checks = [
        ["pytest", "-q", "-p", "no:cacheprovider", "test_orders.py"],
        ["ruff", "check", "--isolated", "--line-length=120", "--select=E,F,W,I,B,UP,SIM", "--exclude=migrations", "."],
        ["mypy", "--strict", "--exclude=migrations", "run.py", "test_orders.py", "shop"],
    ]
    if framework == "django":
        (tmp_path / "mypy.ini").write_text(
            "[mypy]\nplugins = mypy_django_plugin.main\n[mypy.plugins.django-stubs]\n"
            "django_settings_module = shop.settings\n"
        )
        manage = [["manage.py", "check"], ["manage.py", "makemigrations", "--check", "--dry-run"]]
    else:
        manage = []
    for command in [*(["-m", *one] for one in checks), *manage]:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@FRAMEWORKS
def test_the_health_tells_of_a_table_that_has_stopped(framework: str, tmp_path: Path) -> None:
    with serving(tmp_path, framework) as shop:
        for other in TOO_MUCH:
            with pytest.raises(HTTPError, match="409"):
                shop.ask("/orders/1", {"customer": "Ada", "items": "3", "article": "tea"} | other)
        with pytest.raises(HTTPError, match="409"):
            shop.place(10**22)
        shop.place(1)
        eventually(lambda: shop.ask("/orders")["after"] == 1, "the table")
        assert shop.ask("/healthz")["ok"]
        order = Event(event_type="OrderShipped", actor_id="order-x")  # of a program that knows no better
        with JetStreamEventStore(shop.server.url, stream="shop") as store:
            store.append("order-x", order, expected_version=NO_EVENTS)
        eventually(lambda: "the table" in reasons_of(f"{shop.url}/healthz"), "that it has stopped")


def reasons_of(url: str) -> str:
    """Return what an answer 503 says; nothing of another one."""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE):
            return ""
    except HTTPError as error:
        with error:
            return error.read().decode() if error.code == 503 else ""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@FRAMEWORKS
def test_one_command_starts_all_and_a_signal_ends_all(framework: str, number: int, tmp_path: Path) -> None:
    write_shop(tmp_path, framework)
    with closing(FreePort()) as free:
        log = tmp_path / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*(["nohup"] if number == signal.SIGTERM else []), sys.executable, str(tmp_path / "run.py")],
                env=environment(PORT=str(free.number)),
                stdout=file,
                stderr=file,
            )
        try:
            shop = Shop(tmp_path, free.number)
            shop.place(1, "Ada", 3, "tea")
            shop.ask("/orders/1/ship", {})
            eventually(lambda: shop.ask("/orders")["after"] == 2, "the table")
            eventually(lambda: "Dear Ada, we have got your order of 3 tea." in shop.log, "the mail")
            if number == signal.SIGTERM:  # it was started by nohup, and its terminal is closed
                process.send_signal(signal.SIGHUP)
                shop.place(2, "Ada", 3, "tea")
            process.send_signal(number)
            assert process.wait(BOOT) == 0, shop.log
        finally:
            process.kill()
    web, worker = shop.log.index("Shutting down: Master"), shop.log.index("SIGTERM: ending")
    assert web < worker
    assert "Traceback" not in shop.log
