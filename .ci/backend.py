"""The build backend: setuptools, whose wheels and sdists here depend on nothing but the files that they are made from.

setuptools writes the time of the build into both, and the permissions of the files that it makes depend on the umask of
whoever builds. Here the time is a constant, unless ``SOURCE_DATE_EPOCH`` says another one
(https://reproducible-builds.org/specs/source-date-epoch/), and the umask is the usual one. The process is the build's
own, so nobody else is affected.
"""

import gzip
import os
import tarfile
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

#: 1980-01-01, the first time that an entry of a zip file can have.
_FIRST = 315532800

os.environ.setdefault("SOURCE_DATE_EPOCH", str(_FIRST))
os.umask(0o022)


def build_sdist(sdist_directory: str, config_settings: dict[str, object] | None = None) -> str:
    """Build an sdist, and write it again without times, owners, and permissions other than 644 and 755."""
    name = build_meta.build_sdist(sdist_directory, config_settings)
    path = Path(sdist_directory, name)
    again = path.with_suffix(".again")
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    with (
        tarfile.open(path) as built,
        again.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=epoch) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for member in sorted(built, key=lambda member: member.name):
            member.pax_headers = {}
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = epoch
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            tar.addfile(member, built.extractfile(member) if member.isfile() else None)
    again.replace(path)
    return name
