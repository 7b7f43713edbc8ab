"""The checks of the server and of the connection to it, which concern a bus as well as a store.

Field names are those of ``INFO``, of ``$SYS.REQ.USER.INFO`` and of the monitoring port's ``/varz``, ``/healthz``,
``/jsz`` and ``/routez`` (https://docs.nats.io/running-a-nats-service/nats_admin/monitoring). The largest advisable
payload is that of https://docs.nats.io/reference/faq.
"""

from collections.abc import Iterator
from typing import Any

from .faults import NEWEST_FIX, faults_of, version_of
from .findings import Answers, Finding, bad, filled, ok, size_of, warn
from .rights import Right, Tried

__all__ = ["CHECKS"]

_OLDEST = (2, 11, 0)  # reads by direct gets of several
_ATOMIC = (2, 12, 0)  # saves several at once
_SKEW = 1.0  # seconds between two clocks
_SLOW = 0.1  # seconds of a round trip
_DAY = 86_400.0  # seconds
_RENEW = 14 * _DAY  # seconds before a certificate expires in which it should be renewed
_URGENT = 2 * _DAY  # seconds before it expires in which that is late
_LARGE = 8 * 2**20  # bytes of a payload, above which the server itself warns
_NEARLY_FULL = 0.8
_FEW = 100  # subscriptions of one connection
_WINDOW = 120.0  # seconds of a store's duplicate window
_BATCH = 1_000  # messages of a batch, by default
_BATCHES = 50  # batches at the same time in a stream, by default


def _version(answers: Answers) -> Iterator[Finding]:
    text = str(answers.server.get("version", ""))
    version = version_of(text)
    if version is None:
        yield warn("server", f"its version is not known: {text!r:.40}", f"see that it is nats-server {NEWEST_FIX}")
        return
    name, with_store = f"nats-server {text}", answers.wanted is not None
    found = list(faults_of(version, with_store=with_store))
    if with_store and version < _OLDEST:
        yield bad(
            "server",
            f"{name} has no direct get of several, by which events are read",
            f"upgrade to nats-server {NEWEST_FIX}",
        )
        return
    if with_store and version < _ATOMIC:
        yield warn(
            "server",
            f"{name} has no atomic batches: only one event can be saved at a time",
            f"upgrade to nats-server {NEWEST_FIX}",
        )
    for fault in found:
        yield warn("server", f"{name}: {fault.what} ({fault.source})", f"upgrade to nats-server {NEWEST_FIX}")
    if not found and not (with_store and version < _ATOMIC):
        yield ok("server", name)


def _login(answers: Answers) -> Iterator[Finding]:
    data = answers.user.get("data", {})
    if not answers.server.get("auth_required"):
        if answers.server.get("tls_verify"):
            yield ok("login", "accepted: the server lets in whoever has a certificate that it trusts")
        elif answers.is_local:
            yield ok("login", "the server asks for none, on this machine")
        else:
            yield warn(
                "login",
                "the server asks for none: whoever reaches its port may read and publish everything",
                "add `authorization` or `accounts` to the server's configuration, or keep others from its port",
            )
    elif "user" in data:
        yield ok("login", f"{_who(answers)} is let in")
    else:
        yield ok("login", "accepted")
    expires = data.get("expires", 0) / 1e9
    if 0 < expires < _DAY:
        yield warn(
            "login",
            f"the user's JWT expires in {_time(expires)}",
            "renew the credentials file: each new connection reads it again",
        )


def _who(answers: Answers) -> str:
    data = answers.user.get("data", {})
    user = f"user {data['user']!r}" if data.get("user") else "a user without a name"
    return f"{user}, of account {data.get('account_name') or data.get('account')!r},"


def _time(seconds: float) -> str:
    for size, unit in ((_DAY, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _tls(answers: Answers) -> Iterator[Finding]:
    tls = answers.tls
    if tls is None:
        if answers.is_local:
            yield ok("tls", "not in use, on this machine")
        else:
            yield warn(
                "tls",
                "not in use: events and passwords can be read on their way",
                "add `tls` to the server's configuration, and connect to tls://",
            )
    elif not tls.is_verified:
        yield warn(
            "tls",
            f"{tls.version}, but the server's certificate is not verified: anybody could pretend to be this server",
            "give tls= a context of ssl.create_default_context(cafile=...)",
        )
    elif not tls.checks_name:
        yield warn(
            "tls",
            f"{tls.version}, but the certificate may be of any host: others that the same authority trusts could "
            "pretend to be this server",
            "leave check_hostname of the SSL context on; tls_hostname= names the host that the certificate has",
        )
    else:
        yield ok("tls", f"{tls.version}, with a verified certificate")
    if tls is not None and tls.expires is not None:
        yield from _certificate(tls.expires - answers.moment)


def _certificate(left: float) -> Iterator[Finding]:
    words, advice = f"the server's certificate expires in {_time(left)}", "renew it, and have the server reload it"
    if left < _URGENT:
        yield bad("tls", words, f"{advice}: then nobody can connect any more")
    elif left < _RENEW:
        yield warn("tls", words, advice)
    else:
        yield ok("tls", words)


def _permissions(answers: Answers) -> Iterator[Finding]:
    if answers.untried:
        yield warn("permissions", f"not tried: {answers.untried}", "try again")
    elif not answers.rights:
        yield ok("permissions", f"{_who(answers)} has no limits to them: nothing was tried")
    for one in answers.rights:
        if one.refused:
            yield _refused(one)
    allowed = [one.use.what for one in answers.rights if not one.refused]
    if allowed:
        yield ok("permissions", f"this user may {', '.join(allowed)}")


def _refused(one: Tried) -> Finding:
    tried = [f"{right.verb} {right.tried}" for right in one.refused]
    grants = list(dict.fromkeys(map(_grant, one.refused)))
    condition = "" if one.use.is_vital else f", if this user is to {one.use.what}"
    return (bad if one.use.is_vital else warn)(
        "permissions",
        f"this user may not {one.use.what}: the server refused {', '.join(tried)}",
        f"grant {', '.join(grants)}{condition}",
    )


def _grant(right: Right) -> str:
    return f"{right.verb} {right.subject}"


def _round_trip(answers: Answers) -> Iterator[Finding]:
    if answers.round_trip is None:
        why = "may ask the server nothing that it answers" if answers.gets_answers else "gets no answers"
        yield ok("round trip", f"not measured: this user {why}")
        return
    words = f"{answers.round_trip * 1e3:.2f} ms"
    if answers.round_trip > _SLOW:
        yield warn("round trip", words, "saving an event takes at least as long: go nearer to the server")
    else:
        yield ok("round trip", words)


def _clock(answers: Answers) -> Iterator[Finding]:
    if answers.skew is None:
        yield ok("clock", "not compared: the server told no time")
    elif abs(answers.skew) > _SKEW:
        where = "before" if answers.skew > 0 else "behind"
        yield warn(
            "clock",
            f"the server's is {abs(answers.skew):.1f} s {where} this machine's",
            "set both by NTP: the timestamps of events are of who made them",
        )
    else:
        yield ok("clock", f"within {max(abs(answers.skew), 0.001):.3f} s of the server's")


def _monitor(answers: Answers) -> Iterator[Finding]:
    if not answers.monitor_url:
        return
    error = answers.monitor.get("error")
    if error:
        yield warn(
            "monitor",
            f"{error['description']}; so health, limits, memory and the sync to disk are not seen",
            "give the monitoring port of a server of this cluster (`http: 8222` in its configuration), as "
            "http://host:8222 without a path",
        )
    elif answers.monitor["server_id"] != answers.server.get("server_id"):
        name = answers.monitor.get("server_name")
        yield ok("monitor", f"of {name!r}, which has a route to this server: what follows from it is of {name!r}")
    else:
        yield ok("monitor", "of this server")


def _health(answers: Answers) -> Iterator[Finding]:
    """Check the server's own health: after a write error, as on a full disk, a stream stores nothing any more."""
    why = answers.health.get("error")
    if isinstance(why, str):  # else the port did not answer, which is another finding
        yield bad(
            "health",
            why,
            "see the log of the server. Where it could not write, it stores nothing more, also when there is room on "
            "the disk again: make room, then restart it",
        )


def _cluster(answers: Answers) -> Iterator[Finding]:
    server = answers.server
    if not server.get("cluster"):
        return
    name = f"{server.get('server_name')} of cluster {server['cluster']!r}"
    found = [*_routes(answers), *_meta_leader(answers)]
    known = server.get("connect_urls") or []
    if not found and len(known) == 1:
        found = [
            warn(
                "cluster",
                f"{name} knows of no other server for clients: when it stops, there is nowhere to go",
                "see that the other servers run, and have routes to this one",
            )
        ]
    yield from found or [ok("cluster", f"{name}{f'; {len(known)} addresses for clients' if known else ''}")]


def _routes(answers: Answers) -> Iterator[Finding]:
    """Check that this server has routes to all others."""
    if "num_routes" not in answers.routes:
        return
    others = {route.get("remote_id") for route in answers.routes.get("routes") or []}
    size, there = _cluster_size(answers), len(others) + 1
    if there < size:
        lost = 2 * there <= size
        yield (bad if lost else warn)(
            "cluster",
            f"{there} of {size} servers are there"
            + (": too few to store anything on three servers, or to make a stream" if lost else ""),
            "start the servers that are missing, or look for what is between them",
        )


def _cluster_size(answers: Answers) -> int:
    """Return how many servers the cluster should have, as far as that is known; 0 if it is not."""
    size = answers.jetstream.get("meta_cluster", {}).get("cluster_size", 0)
    return int(size or len(answers.monitor.get("cluster", {}).get("urls") or ()))


def _meta_leader(answers: Answers) -> Iterator[Finding]:
    """Check the servers' leader for JetStream, and whether the others follow it, which it alone knows."""
    meta = answers.jetstream.get("meta_cluster")
    if meta is None:
        return
    if not meta.get("leader"):
        yield bad(
            "cluster",
            "JetStream has no leader: no stream or consumer can be made",
            "start the servers that are missing: more than half have to be there",
        )
        return
    for one in meta.get("replicas") or []:
        # A server that is not "current" and lags by nothing has only not confirmed it since the leader was chosen.
        if one.get("offline") or (one.get("lag") and not one.get("current", True)):
            state = "offline" if one.get("offline") else f"{one['lag']:,} operations behind"
            yield warn("cluster", f"{one.get('name')} is {state}, for JetStream", "see that it runs, and see its log")


def _limits(answers: Answers) -> Iterator[Finding]:
    largest = answers.server.get("max_payload", 0)
    if largest > _LARGE:
        yield warn(
            "limits",
            f"max_payload is {size_of(largest)}: large messages hold up all others of a connection",
            "set it to 8 MB or less, and keep large data elsewhere, with its place in the event",
        )
    else:
        yield ok("limits", f"max_payload: an event may have {size_of(largest)}")
    if not answers.monitor_url:
        yield ok(
            "limits",
            "those of connections, subscriptions and batches are not seen; give --monitor http://host:8222 "
            "(`http: 8222` in the server's configuration)",
        )
    if "max_connections" not in answers.monitor:
        return
    yield from _of_connections(answers.monitor)
    if answers.wanted is not None:
        yield from _of_batches(answers, answers.monitor.get("jetstream", {}).get("limits", {}))


def _of_connections(monitor: dict[str, Any]) -> Iterator[Finding]:
    there, most = monitor.get("connections", 0), monitor["max_connections"]
    words = f"max_connections: {there:,} of {most:,} are there"
    if there >= most * _NEARLY_FULL > 0:
        yield warn("limits", words, "raise max_connections, or share connections: then nobody else gets in")
    else:
        yield ok("limits", words)
    subscriptions = monitor.get("max_subscriptions", 0)
    if 0 < subscriptions < _FEW:
        yield warn(
            "limits",
            f"max_subscriptions: a connection may have {subscriptions:,}, and a bus has one for each pattern",
            "raise max_subscriptions",
        )
    slow = monitor.get("slow_consumers", 0)
    if slow:
        yield warn(
            "slow consumers",
            f"{slow:,} connections were cut since {monitor.get('start')}: their programs did not read fast enough",
            "look in the log of the server for their names; what they missed of a bus is lost",
        )


def _of_batches(answers: Answers, limits: dict[str, Any]) -> Iterator[Finding]:
    size = limits.get("max_batch_size", 0)
    if 0 < size < _BATCH:
        yield warn(
            "limits", f"saves of more than {size:,} events at once are refused", "raise `batch { max_msgs }` there"
        )
    several = limits.get("max_batch_inflight_per_stream", 0)
    if 0 < several < _BATCHES:
        yield warn(
            "limits",
            f"{several:,} saves of several events may be in progress at once: more have to wait",
            "raise `batch { max_inflight_per_stream }` in the limits of JetStream",
        )
    window = limits.get("max_duplicate_window", 0) / 1e9
    if 0 < window < _WINDOW and not answers.has_stream:
        yield bad(
            "limits",
            f"duplicate_window: a stream may have {window:g} s, and a store makes its own with {_WINDOW:g}",
            "raise duplicate_window in the limits of JetStream",
        )


def _memory(answers: Answers) -> Iterator[Finding]:
    """Check the memory of the server, of which ``max_memory`` is three quarters unless it was set."""
    monitor = answers.monitor
    used, limit = monitor.get("mem", 0), monitor.get("gomemlimit", 0)
    if used and 0 < limit < 2**62:
        yield from filled("memory", "the server's", used, limit, "it slows down, or is ended")
    elif used:
        yield ok("memory", f"the server uses {size_of(used)}")


CHECKS = (
    _version, _login, _tls, _permissions, _round_trip, _clock, _monitor, _health, _cluster, _limits, _memory,
)  # fmt: skip
