"""``.ci/release`` lets a release pass, and nothing that is not ready for one."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import aether_sync

from ..support.common import UNIT
from ..support.installs import checkout

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")

VERSION = aether_sync.__version__


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose only commit is a release."""
    source = checkout(tmp_path / "source")
    change_heading(source, f"## {VERSION} - 2026-12-01")
    git(source, "init", "--quiet")
    commit(source)
    return source


def change_heading(source: Path, heading: str) -> None:
    page = source / "aether_sync" / "guide" / "changelog.md"
    text = re.sub(r"^## .*$", heading, page.read_text(encoding="utf-8"), count=1, flags=re.M)
    page.write_text(text, encoding="utf-8")


def git(source: Path, *arguments: str) -> None:
    who = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.com"]
    subprocess.run(["git", "-C", source, *who, *arguments], check=True, timeout=60 * UNIT)


def commit(source: Path) -> None:
    git(source, "add", "--all")
    git(source, "commit", "--quiet", "--message", "A release")


def release(source: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [source / ".ci" / "release"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=400 * UNIT,
        check=False,
    )


def test_what_is_no_release_is_refused(repository: Path) -> None:
    change_heading(repository, "## Unreleased")
    done = release(repository)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no release: the changelog begins with '## Unreleased'" in done.stderr
    change_heading(repository, f"## {VERSION} - 2026-12-02")
    assert "no release: there is something that is not committed" in release(repository).stderr
    git(repository, "tag", f"v{VERSION}")
    commit(repository)
    assert f"no release: v{VERSION} is another commit" in release(repository).stderr
    assert not (repository / "dist").exists()


@pytest.mark.slow
@pytest.mark.index
@pytest.mark.timeout(500 * UNIT)
def test_a_release_leaves_its_files_and_their_hashes(repository: Path) -> None:
    git(repository, "tag", f"v{VERSION}")
    done = release(repository)
    assert done.returncode == 0, done.stdout + done.stderr
    names = {path.name for path in (repository / "dist").iterdir()}
    assert names == {f"aether_sync-{VERSION}-py3-none-any.whl", f"aether_sync-{VERSION}.tar.gz"}
    assert set(re.findall(r"^[0-9a-f]{64}  dist/(\S+)$", done.stdout, re.M)) == names
    status = ["git", "-C", repository, "status", "--porcelain"]
    assert subprocess.check_output(status, text=True) == "", "it leaves nothing behind that git sees"
