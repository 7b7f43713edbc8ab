"""The documentation in the terminal: ``guide``. Its pages are the Markdown files in ``aether_sync/guide``."""

import os
import posixpath
import re
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import pairwise

import click
from rich.console import Console
from rich.markdown import Markdown

from ._shell import Signals, WrongUsageError

__all__ = ["find_pages", "guide", "summary", "without_addresses"]

_WIDEST = 100  # columns; longer lines are hard to read
_INDEX = "index"

_LINK = re.compile(r"^```.*?^```$|\[([^\]]+)\]\(([\w./-]+)\.md(?:#[\w-]*)?\)|\[([^\]]+)\]\(#[\w-]*\)", re.M | re.S)


@click.command()
@click.argument("topic", required=False)
@click.pass_obj
def guide(signals: Signals, topic: str | None) -> None:
    """Show a page of the documentation, or the list of pages.

    \b
      aether-sync guide
      aether-sync guide tutorial
      aether-sync guide api/bus

    A terminal gets the page formatted, in a pager. A file or a pipe gets its Markdown.
    """  # noqa: D301  # click's mark of lines to keep
    pages = dict(find_pages(files("aether_sync") / "guide"))
    if topic is None:
        _list(pages)
    elif topic not in pages:
        raise WrongUsageError(f"there is no page {topic!r}; {_advice(topic, list(pages))}")
    elif sys.stdout.isatty():
        _show(topic, pages[topic], signals)
    else:
        click.echo(_text(pages[topic]), nl=False)


# -- the pages


def find_pages(folder: Traversable, parent: str = "") -> Iterator[tuple[str, Traversable]]:
    """Yield the topics of a folder, each with its file: in the order of the index, then by name, then those below.

    The topic of an index is the name of its folder.
    """
    there = {file.name.removesuffix(".md"): file for file in folder.iterdir() if file.name.endswith(".md")}
    index = there.pop(_INDEX, None)
    named = []
    if index is not None:
        yield parent or _INDEX, index
        named = re.findall(r"\]\(([\w-]+)\.md", _text(index))
    for name in dict.fromkeys([*named, *sorted(there)]):
        if name in there:
            yield posixpath.join(parent, name), there[name]
    for below in sorted((one for one in folder.iterdir() if one.is_dir()), key=lambda one: one.name):
        yield from find_pages(below, posixpath.join(parent, below.name))


def _text(page: Traversable) -> str:
    return page.read_text(encoding="utf-8")


def _advice(topic: str, topics: list[str]) -> str:
    """Return what to ask for instead of a topic that there is not."""
    last = {one.rpartition("/")[2]: one for one in reversed(topics)}  # `bus` means api/bus
    near = get_close_matches(topic, topics) + [last[one] for one in get_close_matches(topic, last)]
    if not near:
        return "'aether-sync guide' lists the pages"
    return f"did you mean {' or '.join(dict.fromkeys(near))}? 'aether-sync guide' lists the pages"


# -- the list


def _list(pages: dict[str, Traversable]) -> None:
    formatter = click.get_current_context().make_formatter()
    with formatter.section("Pages"):
        formatter.write_dl([(topic, summary(_text(page))) for topic, page in pages.items() if topic != _INDEX])
    click.echo(f"{formatter.getvalue()}\nRead one with: aether-sync guide TOPIC")


def summary(text: str) -> str:
    """Return the title of a page and its first sentence."""
    first = {"heading_open": "", "paragraph_open": ""}
    tokens = Markdown(text).parsed
    for before, token in pairwise(tokens):
        if first.get(before.type) == "":
            first[before.type] = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", token.content).replace("`", "").replace("\n", " ")
    sentence = re.match(r".+?[.!?](?=\s|$)", first["paragraph_open"])
    return f"{first['heading_open']}. {sentence[0] if sentence else ''}".rstrip()


# -- one page


def _show(topic: str, page: Traversable, signals: Signals) -> None:
    """Show a page in the pager, as the terminal can."""
    console = Console()
    console.width = min(console.width, _WIDEST)
    folder = "" if topic == _INDEX else topic if page.name == f"{_INDEX}.md" else posixpath.dirname(topic)
    with console.capture() as shown:
        console.print(Markdown(without_addresses(_text(page), folder), hyperlinks=False))
    os.environ.setdefault("LESS", "-FRX")  # as git sets it: with colours, and no waiting if it fits on the screen
    signals.leave_interrupts_to_a_pager()
    click.echo_via_pager(shown.get())


def without_addresses(text: str, folder: str) -> str:
    """Replace links: in a terminal a reader has use for the topic of another page, and none for its address.

    Of a link whose text is code or names the topic, of one to a heading of the same page, and of one to a file outside
    the guide, the text remains.

    Args:
        text: Markdown.
        folder: Where the page lies in the guide: "", or "api".
    """

    def shown(found: re.Match[str]) -> str:
        says, address = found[1], found[2]
        if says is None:
            return found[3] or found[0]  # a link to a heading, or a program
        topic = posixpath.normpath(posixpath.join(folder, address)).removesuffix(f"/{_INDEX}")
        says_enough = "`" in says or topic in says.lower() or topic.startswith("..")
        return says if says_enough else f"{says} ({topic})"

    return _LINK.sub(shown, text)
