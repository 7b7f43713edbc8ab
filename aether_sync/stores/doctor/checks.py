"""The checks of the doctor: each makes findings of the server's answers, and says what to do about them.

The thresholds and faults are from NATS' own checks (a million subjects: JETSTREAM_002), from the release notes of
nats-server, and from Jepsen's report on 2.12.1 (https://jepsen.io/analyses/nats-2.12.1). Field names are those of the
JetStream API, of ``/varz`` and of ``/healthz``.
"""

from collections.abc import Callable, Iterator
from typing import Any

from ..._values.shown import short
from .._jetstream.error_codes import ErrorCode
from .._jetstream.stream import differences
from .findings import NO_RIGHT, Answers, Finding, bad, filled, ok, size_of, warn
from .server_checks import CHECKS

__all__ = ["examine"]

_NEARLY_FULL = 0.8
_MANY_SUBJECTS = 1_000_000
_SUBJECT = 500  # bytes in the server's memory for each subject, as measured with nats-server 2.15.1
_SUBJECTS_SHARE = 0.1  # of the server's memory
_LAG = 10_000  # events that a consumer or a replica is behind
_SILENCE = 5.0  # seconds since the leader has heard from a replica
_REDELIVERED = 100  # events
_LONG_WINDOW = 3_600.0  # seconds of a duplicate window
_SHOWN = 5  # torn saves that are listed
_TYPES_SHOWN = 20  # unknown types that are listed
_NOT_STORED = "nothing can be stored"


def examine(answers: Answers) -> list[Finding]:
    """Return the findings of all checks, in the order in which they should be read."""
    checks: list[Check] = [*CHECKS]
    if answers.wanted is not None:
        checks += _OF_STORE
        if answers.has_jetstream and answers.has_stream:
            checks += _OF_STREAM
    return [finding for check in checks for finding in check(answers)]


# -- JetStream


def _jetstream(answers: Answers) -> Iterator[Finding]:
    error = answers.account.get("error")
    if error and error.get("err_code") == ErrorCode.JSClusterNotAvailErr:
        yield bad(
            "jetstream",
            f"the cluster has no leader for it: {error.get('description')}",
            "start the servers that are missing: more than half have to be there",
        )
    elif error and error.get("is_silent"):
        yield bad(
            "jetstream",
            f"it does not answer: {error.get('description')}",
            "try a longer --timeout. If there is still no answer, see that more than half of a cluster's servers are "
            "there, or it has no leader; then see the log of the server, and its /healthz: JetStream may have failed, "
            "as on a disk that hangs, and then the server has to be restarted",
        )
    elif not answers.has_jetstream:
        yield bad(
            "jetstream",
            f"there is none for this user: {error.get('description') if error else ''}",
            "enable it: `jetstream { store_dir: ... }` in the server's configuration, and for the account; or, "
            "if there is only a bus, look at that alone (--bus)",
        )
    elif error:
        yield warn("jetstream", f"the account is not seen: {error.get('description')}", "grant publish $JS.API.INFO")
    else:
        yield ok("jetstream", f"enabled; {answers.account.get('streams', 0)} streams in the account")


def _prefix(answers: Answers) -> Iterator[Finding]:
    if answers.wanted is not None and answers.wanted["name"] == answers.prefix:
        yield bad(
            "prefix",
            f"{answers.prefix!r} is the prefix of the bus, and the name of the stream as well: the stream keeps what "
            "the bus publishes, which is no event of the store, and the bus hears the records of the store",
            "give one of them another name",
        )


def _account(answers: Answers) -> Iterator[Finding]:
    account = answers.account
    for tier, one in [("", account), *account.get("tiers", {}).items()]:
        limits = one.get("limits", {})
        yield from filled(
            f"account {tier}".strip(), "storage", one.get("storage", 0), limits.get("max_storage", 0), _NOT_STORED
        )
        streams, most = one.get("streams", 0), limits.get("max_streams", 0)
        if 0 < most <= streams:
            yield warn(
                f"account {tier}".strip(),
                f"it has {streams} streams and may have no more",
                "raise max_streams: a store makes one for events, one for snapshots, one for what consumers give up",
            )
        consumers, most = one.get("consumers", 0), limits.get("max_consumers", 0)
        if 0 < most <= consumers:
            yield warn(
                f"account {tier}".strip(),
                f"it has {consumers} consumers and may have no more",
                "raise max_consumers: each follower and each durable consumer is one",
            )
        if limits.get("max_bytes_required") and not answers.has_stream:
            yield bad(
                "account", "its streams must have max_bytes, and a store makes its own without", "make it by hand"
            )


def _sync(answers: Answers) -> Iterator[Finding]:
    monitor = answers.monitor
    config = monitor.get("jetstream", {}).get("config", {})
    if not config and answers.monitor_url:
        if "error" not in monitor and answers.has_jetstream:  # else another finding says why
            yield warn(
                "sync to disk",
                f"not seen: {monitor.get('server_name')!r} has no JetStream",
                "give the monitoring port of a server that has",
            )
        return
    if not config:
        yield warn(
            "sync to disk",
            "not seen: only the server's monitoring port tells it",
            "give --monitor http://host:8222 (`http: 8222` in the server's configuration), or look for sync_interval "
            "there: by default what was acknowledged may be 2 minutes from the disk",
        )
        return
    where = f" on {monitor.get('server_name')}" if answers.in_cluster else ""
    if config.get("sync_always"):
        yield ok("sync to disk", f"before each acknowledgement{where}")
        return
    seconds = config.get("sync_interval", 0) / 1e9
    yield warn(
        "sync to disk",
        f"every {seconds:g} s{where}: what was acknowledged since the last may be lost when a machine crashes, with "
        "three replicas, too, if others fail before it has caught up",
        "`jetstream { sync_interval: always }` in the configuration of every server, which makes saving slower; a "
        "process that is killed loses nothing either way",
    )


def _disk(answers: Answers) -> Iterator[Finding]:
    jetstream = answers.monitor.get("jetstream", {})
    limit = jetstream.get("config", {}).get("max_storage", 0)
    yield from filled(
        "disk of the server", "its share", jetstream.get("stats", {}).get("storage", 0), limit, _NOT_STORED
    )


def _stream(answers: Answers) -> Iterator[Finding]:
    name = _wanted(answers)["name"]
    if not answers.has_jetstream:
        return
    error = answers.stream.get("error")
    if error and error.get("err_code") == ErrorCode.JSStreamNotFoundErr:
        yield ok("stream", f"there is no stream {name!r} yet: the first event that is stored makes it")
    elif error and error.get("err_code") == NO_RIGHT:
        if not answers.refuses(subject := f"$JS.API.STREAM.INFO.{name}"):  # else the permissions say so
            yield bad("stream", f"{name!r} is not seen: {error.get('description')}", f"grant publish {subject}")
    elif error:
        yield bad("stream", f"{name!r} is not seen: {error.get('description')}", "see that it has a leader")
    else:
        state = answers.stream["state"]
        yield ok(
            "stream",
            f"{name!r} has {state['messages']:,} records of {state.get('num_subjects', 0):,} actors, "
            f"{size_of(state['bytes'])}",
        )


def _wanted(answers: Answers) -> dict[str, Any]:
    assert answers.wanted is not None, "these checks are of a store"
    return answers.wanted


# -- the stream


def _settings(answers: Answers) -> Iterator[Finding]:
    config = answers.stream["config"]
    found = differences(config, _wanted(answers))
    for one in found:
        yield bad("settings", one, "change it, or use another stream: the store does not open this one")
    if not found:
        yield ok("settings", "as the store needs them")
    if not config.get("allow_atomic"):
        yield warn(
            "settings", "allow_atomic is off: only one event can be saved at a time", "set it (nats-server 2.12.1)"
        )
    if config.get("compression", "none") == "none":
        yield ok("settings", "not compressed; compression 's2' takes less disk for some processor")


def _limits(answers: Answers) -> Iterator[Finding]:
    config, state = answers.stream["config"], answers.stream["state"]
    yield from filled("limits", "max_bytes", state["bytes"], config.get("max_bytes", -1), _NOT_STORED)
    most, messages = config.get("max_msgs", -1), state["messages"]
    if most > 0 and messages >= most * _NEARLY_FULL:
        yield warn("limits", f"{messages:,} records of max_msgs {most:,}", "raise it: then nothing can be stored")
    size, payload = config.get("max_msg_size", -1), answers.server.get("max_payload", 0)
    if 0 < size < payload:
        yield warn(
            "limits", f"max_msg_size is {size_of(size)}: larger events are refused", "raise it if there are such"
        )


def _replicas(answers: Answers) -> Iterator[Finding]:
    count, cluster = answers.stream["config"].get("num_replicas", 1), answers.stream.get("cluster", {})
    if count == 1:
        if answers.in_cluster:
            yield warn(
                "replicas",
                "1, in a cluster: the events are on one server, and away when it is",
                "set num_replicas to 3",
            )
        else:
            yield ok("replicas", "1, on a server that is alone")
        return
    troubles = list(_of_replicas(cluster, count))
    yield from troubles or [ok("replicas", f"{count}, all current; {cluster.get('leader')} leads")]
    yield from _of_side_streams(answers, count)


def _of_replicas(cluster: dict[str, Any], count: int) -> Iterator[Finding]:
    if not cluster.get("leader"):
        yield bad("replicas", "the stream has no leader: nothing can be stored", "start the servers that are missing")
    replicas = cluster.get("replicas") or []
    if len(replicas) < count - 1:
        yield warn("replicas", f"{len(replicas) + 1} of {count} are there", "see that the cluster has room for them")
    offline = [one["name"] for one in replicas if one.get("offline")]
    if offline:
        level = bad if 2 * len(offline) >= count else warn
        yield level("replicas", f"{', '.join(offline)} offline", "start them: with half of them gone nothing is stored")
    for one in replicas:
        silence, lag = one.get("active", 0) / 1e9, one.get("lag", 0)
        if not one.get("offline") and (lag >= _LAG or silence >= _SILENCE or not one.get("current", True)):
            yield warn(
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
            yield warn(
                "replicas",
                f"stream {config['name']!r} has {config.get('num_replicas', 1)}, the events have {count}: {lost} away "
                "with a server, and so is what needs them",
                f"set its num_replicas to {count}",
            )


def _subjects(answers: Answers) -> Iterator[Finding]:
    count = answers.stream["state"].get("num_subjects", 0)
    also = answers.snapshots.get("state", {}).get("num_subjects", 0)
    size, memory = (count + also) * _SUBJECT, _memory_of(answers)
    if count >= _MANY_SUBJECTS or size > memory * _SUBJECTS_SHARE > 0:
        yield warn(
            "actors",
            f"{count:,}: the server keeps an index of all in memory, of about {size_of(size)}"
            + (f"; it has {size_of(memory)} for JetStream" if memory else ""),
            "give it gigabytes for some millions, or spread the actors over several streams or namespaces",
        )
    else:
        yield ok("actors", f"{count:,}")


def _memory_of(answers: Answers) -> int:
    """Return how much memory the server has for JetStream, by default three quarters of the machine's; 0: unknown."""
    config = answers.monitor.get("jetstream", {}).get("config", {})
    return int(answers.monitor.get("gomemlimit", 0) or config.get("max_memory", 0))


def _window(answers: Answers) -> Iterator[Finding]:
    """Check how long the server remembers ids; that it is not too short is a matter of the settings."""
    window = answers.stream["config"].get("duplicate_window", 0) / 1e9
    words = f"the server knows an id again for {window:g} s"
    if window > _LONG_WINDOW:
        yield warn(
            "duplicate window",
            f"{words}, and keeps all ids of that time in memory",
            "set duplicate_window to 120 s: a store needs no longer one",
        )
    else:
        yield ok("duplicate window", words)


def _saves(answers: Answers) -> Iterator[Finding]:
    if not (answers.looked_through or answers.torn) and answers.stream["state"]["messages"]:
        yield ok("saves", "not looked at: the latest records could not be read, or not in time")
        return
    among = f"the latest {answers.looked_through:,} records"
    if not answers.torn:
        yield ok("saves", f"all whole, among {among}")
        return
    shown = [f"{one.first:,} to {one.last:,}" for one in answers.torn[:_SHOWN]]
    more = ["others"] if len(answers.torn) > _SHOWN else []
    yield warn(
        "saves",
        f"{len(answers.torn):,} of which the server has stored a part only, among {among}: sequences "
        f"{', '.join(shown + more)}. No reader takes these for events",
        "make room: raise max_file_store, or the account's storage. Three replicas refuse a save as a whole"
        + (". Save again what was refused, before the server starts again" if answers.torn[-1].is_open else ""),
    )


def _no_events(answers: Answers) -> Iterator[Finding]:
    """Check that nobody else publishes to the subjects of the store."""
    if not answers.no_events:
        return
    sequence, subject = answers.no_events[-1]
    yield warn(
        "records",
        f"{len(answers.no_events):,} of the latest {answers.looked_through:,} are no events, the last at sequence "
        f"{sequence:,}, of {short(subject)}: a projection stops at such a one",
        f"see who publishes to {short(subject.partition('.')[0])}: a bus of this prefix, perhaps, which needs another "
        "name. get_events_with_errors() shows what they are",
    )


def _event_types(answers: Answers) -> Iterator[Finding]:
    if not answers.has_types:
        return
    among = f"the latest {answers.looked_through:,} records"
    if not answers.looked_through and answers.stream["state"]["messages"]:
        yield ok("event types", "not looked at: the latest records could not be read, or not in time")
    elif not answers.unknown:
        yield ok("event types", f"all known, among {among}")
    else:
        most = sorted(answers.unknown.items(), key=lambda one: one[1], reverse=True)
        shown = [
            f"{short(name)} of version {version if version.isdecimal() else short(version)} "
            f"({count:,} event{'s' * (count != 1)}, the last at sequence {last:,})"
            for (name, version), (count, last) in most[:_TYPES_SHOWN]
        ]
        more = [f"{len(most) - _TYPES_SHOWN:,} others"] * (len(most) > _TYPES_SHOWN)
        yield warn(
            "event types",
            f"not known, among {among}: {', '.join(shown + more)}",
            "register them, or raise the version of the type; a program of a newer version may have stored them",
        )


def _consumers(answers: Answers) -> Iterator[Finding]:
    well = 0
    for one in answers.consumers:
        found = list(_of_consumer(one, one.get("config", {})))
        well += not found
        yield from found
    if well or not answers.consumers:
        yield ok("consumers", f"{well} without trouble" if well else "none")


def _of_consumer(one: dict[str, Any], config: dict[str, Any]) -> Iterator[Finding]:
    name, pending, acks = one.get("name"), one.get("num_pending", 0), one.get("num_ack_pending", 0)
    if pending >= _LAG:
        yield warn(f"consumer {name}", f"{pending:,} events before it", "see that it runs; run more of it")
    elif pending and not acks and one.get("num_waiting", 1) == 0 and not one.get("push_bound"):
        yield warn(
            f"consumer {name}",
            f"{pending:,} events before it, and nobody asks for them",
            "start the program that runs it, or delete the consumer if nobody needs it any more",
        )
    if one.get("num_redelivered", 0) >= _REDELIVERED:
        yield warn(
            f"consumer {name}",
            f"{one['num_redelivered']:,} events came more than once, and are not acknowledged or were given up",
            "see what its handlers raise, and whether ack_wait is long enough for them",
        )
    if 0 < config.get("max_ack_pending", 0) <= acks:
        yield warn(
            f"consumer {name}",
            f"all {acks:,} that may be worked on are, so nothing else is delivered",
            "see that its handlers end and acknowledge; or raise max_ack_pending",
        )


def _dead_letters(answers: Answers) -> Iterator[Finding]:
    count = answers.dead_letters.get("state", {}).get("messages", 0)
    if count:
        yield warn(
            "dead-letter stream",
            f"{count:,} events that consumers gave up",
            "see why with store.consumer(name).dead_letters(), and retry them with its run(handler, dead_letters=True)",
        )


Check = Callable[[Answers], Iterator[Finding]]
_OF_STORE: tuple[Check, ...] = (_prefix, _jetstream, _account, _sync, _disk, _stream)
_OF_STREAM: tuple[Check, ...] = (
    _settings, _limits, _window, _replicas, _subjects, _saves, _no_events, _event_types, _consumers, _dead_letters,
)  # fmt: skip
