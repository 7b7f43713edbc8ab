"""The checks of the doctor: each makes findings of the server's answers, and says what to do about them.

The thresholds and faults are from NATS' own checks (a million subjects: JETSTREAM_002), from the release notes of
nats-server, and from Jepsen's report on 2.12.1 (https://jepsen.io/analyses/nats-2.12.1). Field names are those of the
JetStream API, of ``/varz`` and of ``/healthz``.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

from .._jetstream.error_codes import ErrorCode
from .._jetstream.stream import differences
from .findings import Answers, Finding, Level, first_line, is_well

__all__ = ["Answers", "Finding", "Level", "examine", "first_line", "is_well"]

_OLDEST = (2, 11, 0)  # reads by direct gets of several
_ATOMIC = (2, 12, 0)  # saves several at once
_GOOD = {(2, 12): 14, (2, 14): 5}  # by release: the first patch that has none of the known faults
_UPGRADE = "upgrade to 2.12.14, 2.14.5, or later"
_NEARLY_FULL, _FULL = 0.8, 0.95
_MANY_SUBJECTS = 1_000_000
_LAG = 10_000  # events that a consumer or a replica is behind
_SILENCE = 5.0  # seconds since the leader has heard from a replica
_REDELIVERED = 100  # events
_SKEW = 1.0  # seconds between two clocks
_SLOW = 0.1  # seconds of a round trip
_SHOWN = 5  # torn saves that are listed


def examine(answers: Answers) -> list[Finding]:
    """Return the findings of all checks, in the order in which they should be read."""
    checks = [*_OF_SERVER, *(_OF_STREAM if answers.has_jetstream and answers.has_stream else ())]
    return [finding for check in checks for finding in check(answers)]


def _ok(topic: str, message: str) -> Finding:
    return Finding(Level.OK, topic, message)


def _warn(topic: str, message: str, advice: str) -> Finding:
    return Finding(Level.WARN, topic, message, advice)


def _bad(topic: str, message: str, advice: str) -> Finding:
    return Finding(Level.BAD, topic, message, advice)


# -- the server


def _version(answers: Answers) -> Iterator[Finding]:
    text = str(answers.server.get("version", ""))
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", text)
    if found is None:
        yield _warn("server", f"its version is not known: {text!r:.40}", "see that it is nats-server 2.12.14 or later")
        return
    major, minor, patch = (int(part or 0) for part in found.groups())
    name = f"nats-server {text}"
    if (major, minor, patch) < _OLDEST:
        yield _bad(
            "server", f"{name} has no direct get of several, by which events are read", "upgrade to 2.12.14 or later"
        )
    elif (major, minor, patch) < _ATOMIC:
        yield _warn(
            "server",
            f"{name} has no atomic batches: only one event can be saved at a time",
            "upgrade to 2.12.14 or later",
        )
    elif patch < _GOOD.get((major, minor), 0):
        yield _warn(
            "server",
            f"{name} has known faults: expectations in atomic batches that were checked on another subject, and losses "
            "of acknowledged events after crashes",
            _UPGRADE,
        )
    else:
        yield _ok("server", name)


def _jetstream(answers: Answers) -> Iterator[Finding]:
    error = answers.account.get("error")
    if not answers.has_jetstream:
        yield _bad(
            "jetstream",
            f"there is none for this user: {error.get('description') if error else ''}",
            "enable it: `jetstream { store_dir: ... }` in the server's configuration, and for the account",
        )
    elif error:
        yield _warn("jetstream", f"the account is not seen: {error.get('description')}", "allow this user $JS.API.INFO")
    else:
        yield _ok("jetstream", f"enabled; {answers.account.get('streams', 0)} streams in the account")


def _account(answers: Answers) -> Iterator[Finding]:
    account = answers.account
    for tier, one in [("", account), *account.get("tiers", {}).items()]:
        limits = one.get("limits", {})
        yield from _filled(f"account {tier}".strip(), "storage", one.get("storage", 0), limits.get("max_storage", 0))
        streams, most = one.get("streams", 0), limits.get("max_streams", 0)
        if 0 < most <= streams:
            yield _warn(
                f"account {tier}".strip(),
                f"it has {streams} streams and may have no more",
                "raise max_streams: a store makes one for events, one for snapshots, one for what consumers give up",
            )
        if limits.get("max_bytes_required") and not answers.has_stream:
            yield _bad(
                "account", "its streams must have max_bytes, and a store makes its own without", "make it by hand"
            )


def _filled(topic: str, what: str, used: float, limit: float) -> Iterator[Finding]:
    """Check how full something is."""
    if limit <= 0:
        return
    share = used / limit
    words = f"{what} is {share:.0%} full: {_size(used)} of {_size(limit)}"
    if share >= _FULL:
        yield _bad(topic, words, "raise the limit now: when it is full, nothing can be stored")
    elif share >= _NEARLY_FULL:
        yield _warn(topic, words, "raise the limit: when it is full, nothing can be stored")
    else:
        yield _ok(topic, words)


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _sync(answers: Answers) -> Iterator[Finding]:
    monitor = answers.monitor
    config = monitor.get("jetstream", {}).get("config", {})
    if not config:
        reason = monitor.get("error", {}).get("description", "it is seen only on the server's monitoring port")
        yield _warn(
            "sync to disk",
            f"not seen: {reason}",
            "give --monitor http://host:8222 (`http: 8222` in the server's configuration), or look for sync_interval "
            "there: by default what was acknowledged may be 2 minutes from the disk",
        )
        return
    where = f" on {monitor.get('server_name')}" if answers.in_cluster else ""
    if config.get("sync_always"):
        yield _ok("sync to disk", f"before each acknowledgement{where}")
        return
    seconds = config.get("sync_interval", 0) / 1e9
    yield _warn(
        "sync to disk",
        f"every {seconds:g} s{where}: what was acknowledged since the last may be lost when a machine crashes, with "
        "three replicas, too, if others fail before it has caught up",
        "`jetstream { sync_interval: always }` in the configuration of every server, which makes saving slower; a "
        "process that is killed loses nothing either way",
    )


def _disk(answers: Answers) -> Iterator[Finding]:
    jetstream = answers.monitor.get("jetstream", {})
    limit = jetstream.get("config", {}).get("max_storage", 0)
    yield from _filled("disk of the server", "its share", jetstream.get("stats", {}).get("storage", 0), limit)


def _health(answers: Answers) -> Iterator[Finding]:
    """Check the server's own health: after a write error, as on a full disk, a stream stores nothing any more."""
    why = answers.health.get("error")
    if isinstance(why, str):  # else the port did not answer, which is another finding
        yield _bad(
            "health",
            why,
            "see the log of the server. Where it could not write, it stores nothing more, also when there is room on "
            "the disk again: make room, then restart it",
        )


def _round_trip(answers: Answers) -> Iterator[Finding]:
    words = f"{answers.round_trip * 1e3:.2f} ms"
    if answers.round_trip > _SLOW:
        yield _warn("round trip", words, "saving an event takes at least as long: go nearer to the server")
    else:
        yield _ok("round trip", words)


def _clock(answers: Answers) -> Iterator[Finding]:
    if answers.skew is None:
        yield _ok("clock", "not compared: that takes a stream")
    elif abs(answers.skew) > _SKEW:
        where = "before" if answers.skew > 0 else "behind"
        yield _warn(
            "clock",
            f"the server's is {abs(answers.skew):.1f} s {where} this machine's",
            "set both by NTP: the timestamps of events are of who made them",
        )
    else:
        yield _ok("clock", f"within {max(abs(answers.skew), 0.001):.3f} s of the server's")


def _stream(answers: Answers) -> Iterator[Finding]:
    name = answers.wanted["name"]
    if not answers.has_jetstream:
        return
    error = answers.stream.get("error")
    if error and error.get("err_code") == ErrorCode.JSStreamNotFoundErr:
        yield _ok("stream", f"there is no stream {name!r} yet: the first event that is stored makes it")
    elif error:
        yield _bad("stream", f"stream {name!r} is not seen: {error.get('description')}", "see that it has a leader")
    else:
        state = answers.stream["state"]
        yield _ok(
            "stream",
            f"{name!r} has {state['messages']:,} records of {state.get('num_subjects', 0):,} actors, "
            f"{_size(state['bytes'])}",
        )


# -- the stream


def _settings(answers: Answers) -> Iterator[Finding]:
    config = answers.stream["config"]
    found = differences(config, answers.wanted)
    for one in found:
        yield _bad("settings", one, "change it, or use another stream: the store does not open this one")
    if not found:
        yield _ok("settings", "as the store needs them")
    if not config.get("allow_atomic"):
        yield _warn(
            "settings", "allow_atomic is off: only one event can be saved at a time", "set it (nats-server 2.12.1)"
        )
    if config.get("compression", "none") == "none":
        yield _ok("settings", "not compressed; compression 's2' takes less disk for some processor")


def _limits(answers: Answers) -> Iterator[Finding]:
    config, state = answers.stream["config"], answers.stream["state"]
    yield from _filled("limits", "max_bytes", state["bytes"], config.get("max_bytes", -1))
    most, messages = config.get("max_msgs", -1), state["messages"]
    if most > 0 and messages >= most * _NEARLY_FULL:
        yield _warn("limits", f"{messages:,} records of max_msgs {most:,}", "raise it: then nothing can be stored")
    size, payload = config.get("max_msg_size", -1), answers.server.get("max_payload", 0)
    if 0 < size < payload:
        yield _warn("limits", f"max_msg_size is {_size(size)}: larger events are refused", "raise it if there are such")


def _replicas(answers: Answers) -> Iterator[Finding]:
    count, cluster = answers.stream["config"].get("num_replicas", 1), answers.stream.get("cluster", {})
    if count == 1:
        if answers.in_cluster:
            yield _warn(
                "replicas",
                "1, in a cluster: the events are on one server, and away when it is",
                "set num_replicas to 3",
            )
        else:
            yield _ok("replicas", "1, on a server that is alone")
        return
    troubles = list(_of_replicas(cluster, count))
    yield from troubles or [_ok("replicas", f"{count}, all current; {cluster.get('leader')} leads")]
    yield from _of_side_streams(answers, count)


def _of_replicas(cluster: dict[str, Any], count: int) -> Iterator[Finding]:
    if not cluster.get("leader"):
        yield _bad("replicas", "the stream has no leader: nothing can be stored", "start the servers that are missing")
    replicas = cluster.get("replicas") or []
    if len(replicas) < count - 1:
        yield _warn("replicas", f"{len(replicas) + 1} of {count} are there", "see that the cluster has room for them")
    offline = [one["name"] for one in replicas if one.get("offline")]
    if offline:
        level = _bad if 2 * len(offline) >= count else _warn
        yield level("replicas", f"{', '.join(offline)} offline", "start them: with half of them gone nothing is stored")
    for one in replicas:
        silence, lag = one.get("active", 0) / 1e9, one.get("lag", 0)
        if not one.get("offline") and (lag >= _LAG or silence >= _SILENCE or not one.get("current", True)):
            yield _warn(
                "replicas",
                f"{one['name']} is {lag:,} operations behind"
                + (f", silent for {silence:.0f} s" if silence > 1 else ""),
                "see that it runs, and look again; if it does not catch up, see its log",
            )


def _of_side_streams(answers: Answers, count: int) -> Iterator[Finding]:
    """Check the streams beside the main one: they may have been made when that had fewer replicas."""
    for info, lost in ((answers.snapshots, "snapshots are"), (answers.dead_letters, "what consumers gave up is")):
        config = info.get("config", {"num_replicas": count})
        if config.get("num_replicas", 1) < count:
            yield _warn(
                "replicas",
                f"stream {config['name']!r} has {config.get('num_replicas', 1)}, the events have {count}: {lost} away "
                "with a server, and so is what needs them",
                f"set its num_replicas to {count}",
            )


def _subjects(answers: Answers) -> Iterator[Finding]:
    count = answers.stream["state"].get("num_subjects", 0)
    if count >= _MANY_SUBJECTS:
        yield _warn(
            "actors",
            f"{count:,}: the server keeps an index of all in memory",
            "give it gigabytes for some millions, or spread the actors over several streams or namespaces",
        )
    else:
        yield _ok("actors", f"{count:,}")


def _saves(answers: Answers) -> Iterator[Finding]:
    among = f"the latest {answers.looked_through:,} records"
    if not answers.torn:
        yield _ok("saves", f"all whole, among {among}")
        return
    shown = [f"{one.first:,} to {one.last:,}" for one in answers.torn[:_SHOWN]]
    more = ["others"] if len(answers.torn) > _SHOWN else []
    yield _warn(
        "saves",
        f"{len(answers.torn):,} of which the server has stored a part only, among {among}: sequences "
        f"{', '.join(shown + more)}. No reader takes these for events",
        "make room: raise max_file_store, or the account's storage. Three replicas refuse a save as a whole"
        + (". Save again what was refused, before the server starts again" if answers.torn[-1].is_open else ""),
    )


def _consumers(answers: Answers) -> Iterator[Finding]:
    well = 0
    for one in answers.consumers:
        found = list(_of_consumer(one, one.get("config", {})))
        well += not found
        yield from found
    if well or not answers.consumers:
        yield _ok("consumers", f"{well} without trouble" if well else "none")


def _of_consumer(one: dict[str, Any], config: dict[str, Any]) -> Iterator[Finding]:
    name, pending, acks = one.get("name"), one.get("num_pending", 0), one.get("num_ack_pending", 0)
    if pending >= _LAG:
        yield _warn(f"consumer {name}", f"{pending:,} events before it", "see that it runs; run more of it")
    if one.get("num_redelivered", 0) >= _REDELIVERED:
        yield _warn(
            f"consumer {name}",
            f"{one['num_redelivered']:,} events came more than once, and are not acknowledged or were given up",
            "see what its handlers raise, and whether ack_wait is long enough for them",
        )
    if 0 < config.get("max_ack_pending", 0) <= acks:
        yield _warn(
            f"consumer {name}",
            f"all {acks:,} that may be worked on are, so nothing else is delivered",
            "see that its handlers end and acknowledge; or raise max_ack_pending",
        )


def _dead_letters(answers: Answers) -> Iterator[Finding]:
    count = answers.dead_letters.get("state", {}).get("messages", 0)
    if count:
        yield _warn(
            "dead-letter stream",
            f"{count:,} events that consumers gave up",
            "see why with store.consumer(name).dead_letters(), and retry them with its run(handler, dead_letters=True)",
        )


Check = Callable[[Answers], Iterator[Finding]]
_OF_SERVER: tuple[Check, ...] = (_version, _round_trip, _jetstream, _account, _sync, _disk, _health, _clock, _stream)
_OF_STREAM: tuple[Check, ...] = (_settings, _limits, _replicas, _subjects, _saves, _consumers, _dead_letters)
