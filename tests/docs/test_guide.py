"""The README and the guide: their programs run, their links lead somewhere, and what they name exists."""

import builtins
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import pytest

import aether_sync
from aether_sync import NATSServer
from aether_sync.contrib import sse

from ..support.common import PATIENCE, FreePort, eventually, first_of
from ..support.shell import interruptible

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
README = ROOT / "README.md"
GUIDE = ROOT / "aether_sync" / "guide"
PAGES = [README, *sorted(GUIDE.glob("*.md"))]
EVERY_PAGE = [*PAGES, *sorted(GUIDE.glob("api/*.md")), ROOT / "benchmarks" / "README.md"]

#: Pages that name what is not public: the package's own rooms, its tests, or another language's names.
ABOUT_OTHER_NAMES = {"internals", "contributing", "performance", "changelog", "from-go", "eventsourcing", "django"}
PUBLIC_PAGES = [page for page in PAGES if page.stem not in ABOUT_OTHER_NAMES]

#: What a variable is in every program and sentence of the guide.
KINDS = {
    "bus": "NATSEventBus",
    "connection": "Connection",
    "consumer": "Consumer",
    "delivery": "Delivery",
    "event": "Event",
    "health": "Health",
    "notice": "Notice",
    "runner": "Runner",
    "server": "NATSServer",
    "store": "JetStreamEventStore",
    "subscription": "Subscription",
    "types": "EventTypes",
    "worker": "Worker",
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, such as ````` ```sh run `````."""

    page: Path
    line: int
    language: str
    mark: str  # the word after the language, or ""
    text: str

    @property
    def file_name(self) -> str:
        """The file that a program says it is, by a first line such as ``# orders.py``; "" if it says nothing."""
        found = re.match(r"# (\w[\w./]*\.py)\n", self.text)
        return found[1] if found else ""

    @property
    def is_of_a_project(self) -> bool:
        """Whether it is in a folder: then commands of its page run it."""
        return "/" in self.file_name

    @property
    def is_test(self) -> bool:
        return self.language == "python" and "def test_" in self.text

    def __str__(self) -> str:
        return f"{self.page.stem}-{self.line}"


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def blocks_of(page: Path) -> list[Block]:
    text = text_of(page)
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found[1], found[2], found[3])
        for found in re.finditer(r"^```(\w+)(?: (\w+))?\n(.*?)^```$", text, re.M | re.S)
    ]


def prose_of(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.M | re.S)


#: Pages, by their names, whose programs are run by each run of the tests.
READ_FIRST = {"README", "tutorial", "publishing"}

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PROGRAMS = [block for block in BLOCKS if block.language == "python" and not block.is_of_a_project]
COMMANDS = [block for block in BLOCKS if block.language == "sh" and block.mark == "run"]


def output_of(program: Block) -> str | None:
    """Return what the page shows as the program's output: the block marked ``text output`` that comes next."""
    blocks = blocks_of(program.page)
    following = blocks[blocks.index(program) + 1 :][:1]
    return next((one.text for one in following if (one.language, one.mark) == ("text", "output")), None)


def run(command: list[str], server: NATSServer, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command where a reader would, with this Python's own commands on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        command,
        env={**os.environ, "NATS_URL": server.url, "PATH": path, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
        check=False,
    )


def write_files(program: Block, folder: Path) -> Path:
    """Write a program, and those files of its page that stand before it and that it, or a command, may use."""
    for other in blocks_of(program.page):
        if other.file_name and other.line < program.line:
            file = folder / other.file_name
            if other.is_of_a_project:
                file.parent.mkdir(exist_ok=True)
                (file.parent / "__init__.py").touch()
            file.write_text(other.text, encoding="utf-8")
    if program.language != "python":
        return folder
    path = folder / (program.file_name or ("test_program.py" if program.is_test else "program.py"))
    path.write_text(program.text, encoding="utf-8")
    return path


def in_turn(programs: list[Block]) -> list[Any]:
    """As parameters: those of the first pages that people read are run each time, the others by the slow tests."""
    return [
        pytest.param(one, marks=[] if one.page.stem in READ_FIRST else [pytest.mark.slow], id=str(one))
        for one in programs
    ]


@pytest.mark.parametrize("program", in_turn([one for one in PROGRAMS if not one.is_test]))
def test_programs_run(program: Block, server: NATSServer, tmp_path: Path) -> None:
    path = write_files(program, tmp_path)
    done = run([sys.executable, "-X", "dev", "-W", "error::ResourceWarning", str(path)], server, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    shown = output_of(program)
    assert shown is None or done.stdout == shown


@pytest.mark.parametrize("program", in_turn([one for one in PROGRAMS if one.is_test]))
def test_programs_that_are_tests_pass(program: Block, server: NATSServer, tmp_path: Path) -> None:
    path = write_files(program, tmp_path)
    plugins = ["-p", "no:cacheprovider", "-p", "no:asyncio"]  # that one warns of a setting that it lacks
    done = run([sys.executable, "-m", "pytest", "-q", *plugins, "-W", "error", str(path)], server, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def running(page: str, file_name: str, call: str, url: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Call a function of a program of the guide in a process."""
    (program,) = [one for one in blocks_of(GUIDE / page) if one.file_name == file_name]
    write_files(program, folder)
    command = [sys.executable, "-c", f"import {program.file_name.removesuffix('.py')} as program; program.{call}"]
    env = {**os.environ, "NATS_URL": url, "PYTHONPATH": str(ROOT)}
    with interruptible():
        process = subprocess.Popen(command, env=env, cwd=folder)
    try:
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE)


def probe(port: int, path: str) -> int:
    """Return the status of an answer; 0 if there is none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
            return int(answer.status)
    except HTTPError as error:
        with error:
            return error.code
    except (URLError, OSError):
        return 0


def test_the_worker_answers_probes_before_there_is_a_server(free_port: int, tmp_path: Path) -> None:
    with closing(FreePort()) as web:
        call, url = f"main('127.0.0.1', {web.number})", f"nats://127.0.0.1:{free_port}"
        with running("health.md", "worker.py", call, url, tmp_path) as worker:
            eventually(lambda: probe(web.number, "/livez") == 200, "that it lives")
            assert probe(web.number, "/healthz") == 503
            with NATSServer(port=free_port):
                eventually(lambda: probe(web.number, "/healthz") == 200, "that it is ready")
                worker.send_signal(signal.SIGTERM)
                assert worker.wait(PATIENCE) == 0


@pytest.mark.parametrize("sent", first_of([signal.SIGTERM, signal.SIGINT]))
def test_the_worker_ends_while_it_waits_for_a_server(free_port: int, tmp_path: Path, sent: signal.Signals) -> None:
    with closing(FreePort()) as web:
        call, url = f"main('127.0.0.1', {web.number})", f"nats://127.0.0.1:{free_port}"
        with running("health.md", "worker.py", call, url, tmp_path) as worker:
            eventually(lambda: probe(web.number, "/livez") == 200, "that it lives")
            worker.send_signal(sent)
            assert worker.wait(PATIENCE) == (0 if sent == signal.SIGTERM else -signal.SIGINT)


def test_the_json_lines_have_the_context_and_nothing_that_is_empty(server: NATSServer, tmp_path: Path) -> None:
    (program,) = [one for one in blocks_of(GUIDE / "logs.md") if "class JSONLines" in one.text]
    done = run([sys.executable, str(write_files(program, tmp_path))], server, tmp_path)
    own, theirs = map(json.loads, done.stdout.splitlines())
    blocks = blocks_of(program.page)
    shown = "".join(blocks[blocks.index(program) + 1].text.split("\n ")).splitlines()
    for line, example in zip((own, theirs), map(json.loads, shown), strict=True):
        assert {**line, "time": ""} == {**example, "time": ""}
        assert all(value for value in line.values())


@pytest.mark.parametrize("commands", in_turn(COMMANDS))
def test_commands_run(commands: Block, server: NATSServer, tmp_path: Path) -> None:
    write_files(commands, tmp_path)
    done = run(["bash", "-euo", "pipefail", "-c", commands.text], server, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_is_short_and_begins_with_two_commands() -> None:
    assert len(text_of(README).splitlines()) <= 170
    commands = [block.text.strip() for block in blocks_of(README) if block.language == "sh"][:2]
    assert all("\n" not in command for command in commands)
    assert "aether-sync demo" in commands[0]
    assert "pytest" in commands[1]


def test_the_index_lists_every_page() -> None:
    listed = re.findall(r"\]\((\w[\w-]*)\.md\)", text_of(GUIDE / "index.md"))
    assert sorted(listed) == sorted({page.stem for page in GUIDE.glob("*.md")} - {"index"})


@cache
def headings_of(page: Path) -> set[str]:
    """Return what a link may name behind ``#``: headings in lower case, punctuation left out, a hyphen for a space."""
    headings = re.findall(r"^#+ (.*)$", prose_of(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if "://" in link:
            continue
        name, _, heading = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: there is no {link}"
        assert not heading or heading in headings_of(target), f"{page.name}: there is no heading {link}"


@pytest.mark.parametrize(
    "page", [one for one in PAGES if one.stem not in ABOUT_OTHER_NAMES], ids=lambda page: page.stem
)
def test_public_names_are_there(page: Path) -> None:
    text = text_of(page)
    named = set(re.findall(r"\b[A-Z]\w*(?:Error|Bus|Server|Cluster|Store|Filter|Stored|Connection|State)\b", text))
    own = set(re.findall(r"^class (\w+)", text, re.M))  # of the page's programs
    homes = (aether_sync, builtins, sse)
    assert {one for one in named - own if not any(hasattr(home, one) for home in homes)} == set()
    for variable, attribute in set(re.findall(r"\b([a-z]+)\.(?!(?:md|py)\b)([a-z]\w*)", text)):
        kind = getattr(aether_sync, KINDS.get(variable, ""), None)
        if kind is not None:
            known = hasattr(kind, attribute) or attribute in getattr(kind, "__slots__", ())
            assert known, f"{page.name}: there is no {variable}.{attribute}"


def test_each_fault_names_tests_that_exist() -> None:
    tables = re.findall(r"^\| .* \| tested by \|\n\|[ |-]+\|\n((?:\|.*\|\n)+)", text_of(GUIDE / "failures.md"), re.M)
    rows = [row for table in tables for row in table.splitlines()]
    assert len(rows) > 30
    for row in rows:
        named = re.findall(r"`(test_\w+)::(test_\w+)`", row)
        assert named, f"no test: {row}"
        for module, function in named:
            there = [path.read_text() for path in TESTS.rglob(f"{module}.py")]
            assert any(f"def {function}(" in text for text in there), f"{module} has no {function}"


def test_internals_name_every_module_of_the_client() -> None:
    text = (GUIDE / "internals.md").read_text(encoding="utf-8")
    table = text.partition("What each of `_nats/` does:")[2].split("\n\n")[1]
    named = [name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    modules = [path.stem for path in (ROOT / "aether_sync" / "_nats").glob("*.py") if path.stem != "__init__"]
    assert sorted(named) == sorted(modules)
