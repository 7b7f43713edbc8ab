"""What the guide says of versions is what setup.cfg and the code say."""

import re

from ..docs.test_guide import GUIDE
from ..support.installs import ROOT, SUPPORTED, extras, oldest, required, settings

PAGE = (GUIDE / "versions.md").read_text(encoding="utf-8")


def row(name: str) -> tuple[str, str]:
    """The oldest and the newest version that the page names."""
    found = re.search(rf"^\| {name}(?: \(extra `\w+`\))? \| ([\d.]+).*? \| ([\d.]+) \|", PAGE, re.M)
    assert found is not None, f"the page has no row for {name}"
    return found[1], found[2]


def test_the_oldest_packages_are_those_of_the_requirements() -> None:
    for one in oldest(
        [*required(), *extras()["cli"], *extras()["eventsourcing"], *extras()["fast"], *extras()["nkeys"]]
    ):
        name, version = one.split("==")
        assert row(name)[0] == version


def test_the_oldest_python_is_the_one_that_is_required() -> None:
    assert row("CPython")[0] == SUPPORTED[0] == settings()["options"]["python_requires"].removeprefix(">=")


def test_the_newest_versions_are_those_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"Python {row('CPython')[0]} to {row('CPython')[1]}" in readme
    assert f"nats-server {row('nats-server, for a store')[1]}" in readme
    assert f"nats-py {row('nats-py')[0]} to {row('nats-py')[1]}" in readme


def test_every_header_of_ours_is_named() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "aether_sync").rglob("*.py"))
    assert set(re.findall(r"`(Aether-[\w-]+)`", PAGE)) == set(re.findall(r"\bAether-[A-Z][\w-]+", sources))
