"""The command: writes the pages, or compares them."""

import argparse
import sys
from pathlib import Path

from .pages import Reference

__all__ = ["FOLDER", "differences"]

FOLDER = Path(__file__).parents[3] / "aether_sync" / "guide" / "api"


def differences(pages: dict[str, str], folder: Path = FOLDER) -> list[str]:
    """Return the names of the pages that a folder lacks, has in another form, or should not have."""
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
    return sorted(name for name in there.keys() | pages.keys() if there.get(name) != pages.get(name))


def _write(pages: dict[str, str], names: list[str]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name in pages:
            (FOLDER / name).write_text(pages[name], encoding="utf-8")
        else:
            (FOLDER / name).unlink()


def main() -> int:
    """Run the command, and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.docs.reference", description="Make the API reference from the docstrings."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is not current")
    is_check = parser.parse_args().check
    reference = Reference()
    pages = reference.pages()
    changed = differences(pages)
    if not is_check:
        _write(pages, changed)
    for name in changed:
        print(f"{name}: {'not current' if is_check else 'written'}")
    for fault in reference.faults:
        print(fault, file=sys.stderr)
    return 1 if reference.faults or (is_check and changed) else 0


if __name__ == "__main__":
    sys.exit(main())
