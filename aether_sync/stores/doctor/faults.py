"""The known faults of nats-server that matter to a bus or a store, by version, with the source of each.

The versions are those in which nats-server's own release tags have the fix. What was never fixed in a release is fixed
by a newer one: ``fixed`` names the first fixed version of each release that got the fix, and a release that is older
than all of them did not get it.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["FAULTS", "NEWEST_FIX", "Fault", "Version", "faults_of", "version_of"]

Version = tuple[int, int, int]

_PULL = "https://github.com/nats-io/nats-server/pull/"
_ISSUE = "https://github.com/nats-io/nats-server/issues/"
_ADVISORY = "https://advisories.nats.io/CVE/"


class Fault(NamedTuple):
    """A fault of nats-server."""

    what: str  # what can happen, in a few words
    fixed: tuple[Version, ...]  # the first version of each release that has it not, in rising order
    source: str  # a URL
    since: Version = (0, 0, 0)  # the first version that has it
    is_of_store: bool = True  # it does not matter where there is only a bus
    only: tuple[Version, ...] = ()  # the versions that have it, if it is in no others


FAULTS = (
    Fault(
        "a server of a cluster may lose the data of a stream that was created once more while it was down",
        ((2, 12, 15), (2, 14, 5)),
        f"{_PULL}8449",
        only=((2, 12, 14), (2, 14, 4)),
    ),
    Fault(
        "expectations in atomic batches may be checked on another subject",
        ((2, 12, 14), (2, 14, 4)),
        f"{_ISSUE}8376",
        since=(2, 12, 0),
    ),
    Fault(
        "compressed or encrypted files may be damaged when the server compacts them",
        ((2, 12, 12), (2, 14, 3)),
        f"{_PULL}8312",
    ),
    Fault(
        "a replica may differ from the others after it has caught up with a stream that is at a limit",
        ((2, 12, 12), (2, 14, 3)),
        f"{_PULL}8265",
    ),
    Fault(
        "what a consumer gets in a cluster may have pieces of other messages in it",
        ((2, 12, 10), (2, 14, 2)),
        f"{_ISSUE}7842",
    ),
    Fault(
        "who is denied a subject may get its messages by a queue group",
        ((2, 11, 16), (2, 12, 7), (2, 14, 0)),
        f"{_ADVISORY}secnote-2026-18.txt",
        is_of_store=False,
    ),
    Fault(
        "with no_auth_user, whoever reaches the port for routes or leaf nodes is let in as a server",
        ((2, 11, 16), (2, 12, 7), (2, 14, 0)),
        f"{_ADVISORY}secnote-2026-16.txt",
        is_of_store=False,
    ),
    Fault(
        "who may restore one stream can overwrite others",
        ((2, 11, 15), (2, 12, 6)),
        "https://github.com/advisories/GHSA-9983-vrx2-fg9c",
    ),
    Fault(
        "the server may stop answering for good when a page of events is read while others write or end consumers",
        ((2, 12, 2),),
        f"{_PULL}7458",
        since=(2, 12, 0),
    ),
    Fault(
        "any user with rights on JetStream can purge other accounts",
        ((2, 10, 27), (2, 11, 1)),
        "https://github.com/advisories/GHSA-fhg8-qxh5-7q3w",
        since=(2, 2, 0),
    ),
)

#: The oldest versions that have none of these faults, to be named in an advice.
NEWEST_FIX = "2.12.15, 2.14.5, or later"


def version_of(text: str) -> Version | None:
    """Read a version such as ``2.15.1`` or ``v2.16-dev``; None if it is none."""
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", text)
    return None if found is None else (int(found[1]), int(found[2]), int(found[3] or 0))


def faults_of(version: Version, *, with_store: bool) -> Iterator[Fault]:
    """Return the known faults of a version.

    Args:
        version: The server's.
        with_store: Whether those matter that concern only a store.
    """
    for fault in FAULTS:
        if _has(version, fault) and (with_store or not fault.is_of_store):
            yield fault


def _has(version: Version, fault: Fault) -> bool:
    if fault.only:
        return version in fault.only
    if version < fault.since:
        return False
    same = [one for one in fault.fixed if one[:2] == version[:2]]
    return version < (same[0] if same else fault.fixed[0])
