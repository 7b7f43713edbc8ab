"""The command ``guide``: pages in a terminal, in a pipe, and the list of them."""

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import aether_sync
from aether_sync.cli._guide import find_pages, summary, without_addresses

from ..support.common import PATIENCE, eventually
from ..support.shell import COMMAND, environment, interruptible, run, terminal

GUIDE = Path(aether_sync.__file__).parent / "guide"
TOPICS = dict(find_pages(GUIDE))


@dataclass
class Terminal:
    """A terminal of its own for a command."""

    process: "subprocess.Popen[bytes]"
    shown: bytearray

    @property
    def text(self) -> str:
        """What is on the screen, without colours."""
        return re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", self.shown).decode()


@contextmanager
def on_a_terminal(*command: str, pager: str) -> Iterator[Terminal]:
    changed = environment(TERM="xterm", PAGER=pager)
    changed.pop("LESS", None)
    with terminal() as (its, shown):
        with interruptible():
            process = subprocess.Popen([*COMMAND, *command], stdin=its, stdout=its, stderr=its, env=changed)
        try:
            yield Terminal(process, shown)
        finally:
            process.kill()
            process.wait()


# -- the list


def test_the_list_has_all_pages() -> None:
    found = run("guide")
    assert found.returncode == 0
    listed = re.findall(r"^  (\S+)  ", found.stdout, re.M)
    there = {path.relative_to(GUIDE).with_suffix("").as_posix() for path in GUIDE.rglob("*.md")}
    assert set(listed) == {topic.removesuffix("/index") for topic in there} - {"index"}
    assert len(listed) == len(set(listed))
    assert max(map(len, found.stdout.splitlines())) <= 80


def test_pages_come_in_the_order_of_their_index(tmp_path: Path) -> None:
    for name in ("alpha", "beta", "gamma", "delta", "api/two", "api/one", "api/index"):
        path = tmp_path / f"{name}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text("# A page\n")
    assert [topic for topic, _ in find_pages(tmp_path)] == [
        "alpha", "beta", "delta", "gamma", "api", "api/one", "api/two",
    ]  # fmt: skip
    (tmp_path / "index.md").write_text(
        "[g](gamma.md), [b](beta.md#there), [b](beta.md), [gone](gone.md), [u](http://x.md)"
    )
    (tmp_path / "api" / "index.md").write_text("[two](two.md)")
    assert [topic for topic, _ in find_pages(tmp_path)] == [
        "index", "gamma", "beta", "alpha", "delta", "api", "api/two", "api/one",
    ]  # fmt: skip


def test_a_page_is_summed_up_by_its_title_and_first_sentence() -> None:
    assert summary("# Title\n\nOne `name()` of\n[a page](there.md). Two.\n") == "Title. One name() of a page."
    assert summary("# Title\n\nVersion 1.2 is it! Two.\n\n## Other\n\nThree.") == "Title. Version 1.2 is it!"
    assert summary("# Title\n") == "Title."


@pytest.mark.parametrize("topic", [one for one in TOPICS if one != "index"])
def test_every_page_says_what_it_is_for(topic: str) -> None:
    assert re.fullmatch(r".+[.?!] .+[.!?]", summary(TOPICS[topic].read_text(encoding="utf-8")))


# -- one page


@pytest.mark.parametrize(
    ("topic", "file"), [("changelog", "changelog.md"), ("api", "api/index.md"), ("api/bus", "api/bus.md")]
)
def test_a_pipe_gets_the_markdown(topic: str, file: str) -> None:
    found = run("guide", topic)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == (GUIDE / file).read_text(encoding="utf-8")


def test_a_terminal_gets_a_formatted_page() -> None:
    with on_a_terminal("guide", "api/bus", pager="cat") as terminal:
        assert terminal.process.wait(PATIENCE) == 0
        eventually(lambda: "NATSEventBus.connection" in terminal.text, "the end of the page")
        assert "def publish(namespace: str, event: Event) -> None" in terminal.text
        assert "```" not in terminal.text
        assert "](" not in terminal.text


def test_less_gets_colours(tmp_path: Path) -> None:
    less = tmp_path / "less"
    less.write_text('#!/bin/sh\ncat; echo "LESS=$LESS"\n')
    less.chmod(0o755)
    with on_a_terminal("guide", "changelog", pager=str(less)) as terminal:
        assert terminal.process.wait(PATIENCE) == 0
        eventually(lambda: "LESS=-FRX" in terminal.text, "the end of the page")
        assert b"\x1b[1" in terminal.shown


def test_a_page_is_read_in_the_pager_and_ctrl_c_is_its_own(tmp_path: Path) -> None:
    pager = tmp_path / "pager.py"
    pager.write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: print('searching no more', flush=True))\n"
        "print('paging', len(sys.stdin.read().splitlines()) > 20, flush=True)\n"
        f"while not __import__('os').path.exists({str(tmp_path / 'quit')!r}):\n"
        "    time.sleep(0.01)\n"
    )
    with on_a_terminal("guide", "api/bus", pager=shlex.join([sys.executable, str(pager)])) as terminal:
        try:
            eventually(lambda: "paging True" in terminal.text, "the pager")
            for _ in range(3):
                terminal.process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                terminal.process.wait(0.2)
        finally:
            (tmp_path / "quit").touch()
        assert terminal.process.wait(PATIENCE) == 0
        assert "Abort" not in terminal.text


def test_an_unknown_topic_is_wrong_usage_and_near_ones_are_named() -> None:
    for topic in ("api/busses", "bus", "api/bos"):
        found = run("guide", topic)
        assert (found.returncode, found.stdout) == (2, "")
        assert found.stderr.startswith(f"aether-sync: there is no page {topic!r}; did you mean ")
        assert "api/bus" in found.stderr
    found = run("guide", "qqqqq")
    assert found.returncode == 2
    assert found.stderr == "aether-sync: there is no page 'qqqqq'; 'aether-sync guide' lists the pages\n"
    assert run("guide", "../guide/changelog").returncode == 2


@pytest.mark.parametrize(
    ("folder", "text", "shown"),
    [
        ("", "See [how to publish](publishing.md).", "See how to publish (publishing)."),
        ("", "See [Publishing](publishing.md#when).", "See Publishing."),
        ("", "See [`publish()`](api/bus.md#eventbuspublish).", "See `publish()`."),
        ("", "See [above](#there), [all\nnames](api/index.md).", "See above, all\nnames (api)."),
        (
            "api",
            "## [The bus](bus.md) and [the guide](../tutorial.md)",
            "## The bus (api/bus) and the guide (tutorial)",
        ),
        ("", "The [first page](../../README.md), [NATS](https://nats.io).", "The first page, [NATS](https://nats.io)."),
        ("", "```py\nx = [one](two.md)\n```\n[a](b.md)", "```py\nx = [one](two.md)\n```\na (b)"),
    ],
)
def test_links_become_topics(folder: str, text: str, shown: str) -> None:
    assert without_addresses(text, folder) == shown
