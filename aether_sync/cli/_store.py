"""The commands that read a store: ``events``, ``follow``, ``actors``."""

import json
import sys
from itertools import islice
from typing import Any

import click

from ..errors import MalformedRecordError
from ..stores.admin import StoreAdmin
from ..stores.base import Follower, MalformedRecord, StoredEvent
from ._lines import to_line
from ._options import open_store, report_troubles, store_options
from ._shell import Failure, say

__all__ = ["actors", "events", "follow", "report_malformed", "write_stored"]

_BATCH = 1_000  # events that are written at once, if there are so many
_LOOK_EVERY = 0.25  # seconds until `follow` notices that it has caught up, if it has nothing to print


def write_stored(batch: list[StoredEvent]) -> None:
    """Print events as lines, each with its sequence."""
    out = sys.stdout.buffer
    out.write(b"".join(to_line(one.event, sequence=one.sequence) for one in batch))
    out.flush()


def report_malformed(error: MalformedRecordError) -> None:
    """Say that a record is not an event."""
    say(f"{error}; it was left out")


def _fail_if_malformed(count: int) -> None:
    if count:
        raise Failure(f"{count:,} record{'s are' if count > 1 else ' is'} no event{'s' * (count > 1)}")


@click.command()
@click.argument("actor")
@click.option("--from", "first", type=click.IntRange(min=0), default=0, metavar="N", help="The first version wanted.")
@click.option("--to", "last", type=click.IntRange(min=0), metavar="N", help="The last version wanted.")
@store_options
def events(actor: str, first: int, last: int | None, timeout: float, **server: Any) -> None:
    """Print the events of ACTOR as JSON lines, in order.

    \b
      aether-sync events order-1
      aether-sync events order-1 --from 10 | jq .data

    Each line is an event with its sequence, its place in the store. An actor without events prints nothing. A record
    that is not an event is left out and reported, and the exit status is 1.
    """  # noqa: D301  # click's mark of lines to keep
    with open_store(timeout=timeout, **server) as store:
        admin = StoreAdmin(store)
        admin.require_stream(timeout)
        report_troubles()
        records = admin.records(actor, first, last, timeout=timeout)
        printed = malformed = 0
        while batch := list(islice(records, _BATCH)):
            found = [one for one in batch if isinstance(one, StoredEvent)]
            write_stored(found)
            printed += len(found)
            for one in batch:
                if isinstance(one, MalformedRecord):
                    report_malformed(one.error)
                    malformed += 1
    if not printed + malformed:
        say(f"actor {actor!r} has no such events")
    _fail_if_malformed(malformed)


@click.command()
@click.option(
    "--after",
    type=click.IntRange(min=0),
    default=0,
    metavar="SEQUENCE",
    help="Begin after this sequence: that of the last event you had.",
)
@click.option("--actors", "pattern", metavar="PATTERN", help="Only events of matching actors, as 'order-*'.")
@click.option("--type", "types", metavar="TYPE", multiple=True, help="Only events of this type; may be repeated.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many events.")
@click.option("--until-caught-up", is_flag=True, help="End when all that is stored has been printed.")
@store_options
def follow(
    after: int,
    pattern: str | None,
    types: tuple[str, ...],
    count: int | None,
    until_caught_up: bool,
    timeout: float,
    stream: str,
    **server: Any,
) -> None:
    """Print a store's events as JSON lines, as they were and are stored, until Ctrl-C.

    First all that is there, then each event as it is stored: in order, without a gap.

    \b
      aether-sync follow --actors 'order-*' --type OrderPlaced
      aether-sync follow --after 1000 --until-caught-up > new

    To continue after a line, give its `sequence` to --after. A record that is not an event is left out and reported,
    and the exit status is 1.
    """  # noqa: D301  # click's mark of lines to keep
    with open_store(timeout=timeout, stream=stream, **server) as store:
        StoreAdmin(store).require_stream(timeout)
        end = store.last_sequence(actors=pattern, timeout=timeout)
        with store.follow(after=after, actors=pattern, event_types=types, timeout=timeout) as following:
            report_troubles()
            say(f"following {stream!r} after sequence {after:,}; Ctrl-C ends")
            malformed = _print_all(following, count, end, until_caught_up)
    _fail_if_malformed(malformed)


def _print_all(following: Follower, count: int | None, end: int, until_caught_up: bool) -> int:
    """Print events as they come; return how many records were not events."""
    printed = malformed = 0
    caught_up = False
    while count is None or printed < count:
        if not caught_up and following.sequence >= end and following.is_caught_up:
            caught_up = True
            say(f"caught up at sequence {following.sequence:,}")
            if until_caught_up:
                break
        try:
            wanted = _BATCH if count is None else min(count - printed, _BATCH)
            batch = following.get_batch(wanted, None if caught_up else _LOOK_EVERY)
        except MalformedRecordError as error:
            report_malformed(error)
            malformed += 1
            continue
        write_stored(batch)
        printed += len(batch)
    return malformed


@click.command()
@click.argument("pattern", required=False)
@store_options
def actors(pattern: str | None, timeout: float, **server: Any) -> None:
    """Print the ids of the actors that have events, one a line, sorted.

    PATTERN is as for --actors of `follow`: 'order-*'. An id with a line break or another character that cannot be
    printed, or that begins with a quotation mark, stands as a JSON string.
    """
    with open_store(timeout=timeout, **server) as store:
        StoreAdmin(store).require_stream(timeout)
        found = store.actors(pattern, timeout=timeout)
    out = sys.stdout.buffer
    out.write(b"".join(b"%b\n" % _printable(one).encode() for one in found))
    out.flush()


def _printable(actor_id: str) -> str:
    return actor_id if actor_id.isprintable() and not actor_id.startswith('"') else json.dumps(actor_id)
