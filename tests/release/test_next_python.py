"""What Python 3.14 changes, shown on the Pythons that are here: start methods, and what warns there and not yet here.

The library neither forks by itself nor asks for the policy of asyncio, so nothing of it should depend on these.
"""

import ast
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from aether_sync import NATSServer

from ..docs.test_guide import GUIDE, PROGRAMS, output_of, run, write_files
from ..support.common import UNIT
from ..support.installs import ROOT

#: Behaves as Python 3.14 does (https://docs.python.org/3.14/whatsnew/3.14.html): it warns of what asyncio gives up,
#: starts processes by a fork server, and makes no event loop for somebody who only asks for one.
AS_IN_3_14 = """
    import sys

    if sys.version_info < (3, 14):
        import asyncio
        import asyncio.events
        import multiprocessing.context
        import pickle
        import warnings

        def deprecated(name, function):
            def call(*arguments):
                warnings.warn(f"{name} is deprecated", DeprecationWarning, stacklevel=2)
                return function(*arguments)

            return call

        names = (
            "iscoroutinefunction",
            "get_event_loop_policy",
            "set_event_loop_policy",
        )
        for name in names:
            if hasattr(asyncio, name):
                setattr(asyncio, name, deprecated(name, getattr(asyncio, name)))

        def get_event_loop():
            return asyncio.events.get_running_loop()  # RuntimeError, if none runs

        asyncio.get_event_loop = asyncio.events.get_event_loop = get_event_loop
        for name in [name for name in vars(asyncio) if "ChildWatcher" in name or "child_watcher" in name]:
            delattr(asyncio, name)
        multiprocessing.context._default_context._default_context = multiprocessing.get_context("forkserver")
        pickle.DEFAULT_PROTOCOL = 5
"""

#: What uses event loops, processes and pickles, or has nats-py use them.
TESTS = [
    "bus/test_nats_bus.py",
    "bus/test_async_iteration.py",
    "process/test_exit.py",
    "process/test_fork.py",
    "store/test_consume.py",
    "unit/test_uvloop.py",
    "unit/test_loop_thread.py",
    "unit/test_events.py",
    "cli/test_bus_commands.py",
]

MULTIPROCESSING = [one for one in PROGRAMS if "import multiprocessing" in one.text]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("program", MULTIPROCESSING, ids=str)
@pytest.mark.slow
def test_programs_of_the_guide_start_processes_in_every_way(
    program: object, method: str, server: NATSServer, tmp_path: Path
) -> None:
    path = write_files(program, tmp_path)
    main = 'if __name__ == "__main__":\n'
    assert program.text.count(main) == 1
    chosen = f"{main}    multiprocessing.set_start_method({method!r})\n"
    path.write_text(program.text.replace(main, chosen), encoding="utf-8")
    # A fork in a process with threads is what is tested; Python warns of it since 3.12.
    flags = ["-X", "dev", "-W", "error::ResourceWarning", "-W", "ignore:This process:DeprecationWarning"]
    done = run([sys.executable, *flags, str(path)], server, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout == output_of(program)


def test_the_guide_has_such_programs_and_names_no_start_method() -> None:
    assert MULTIPROCESSING
    for page in GUIDE.glob("*.md"):
        assert not re.search(r"get_context\(|set_start_method\(", page.read_text(encoding="utf-8")), page.name


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.timeout(550 * UNIT)
def test_as_python_3_14_behaves(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(textwrap.dedent(AS_IN_3_14), encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    probe = "import multiprocessing; print(multiprocessing.get_start_method())"
    assert subprocess.check_output([sys.executable, "-c", probe], env=env, text=True).strip() == "forkserver"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2"]
    done = subprocess.run(
        [*command, *(f"tests/{test}" for test in TESTS)],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500 * UNIT,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def names_read(text: str) -> set[str]:
    """The attributes and names that a program reads, and the modules that it imports from."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


#: What 3.12 to 3.14 deprecate or remove, as far as a library like this one could use it.
GOING = {
    *("get_event_loop", "get_event_loop_policy", "set_event_loop_policy", "get_child_watcher", "set_child_watcher"),
    *("__annotations__", "__future__", "annotationlib"),  # evaluated later since 3.14; get_type_hints() works in all
    *("find_loader", "get_loader", "ByteString", "utcnow", "utcfromtimestamp", "__version_info__", "imp", "distutils"),
    *("UnionType", "Num", "Str", "NameConstant"),
}


def test_the_package_uses_nothing_that_goes() -> None:
    for path in sorted((ROOT / "aether_sync").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if GOING.intersection(re.findall(r"\w+", text)):  # it may be in a comment
            assert not names_read(text) & GOING, path
