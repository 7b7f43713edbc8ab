"""``diagnose()``: look at a server, a bus and a store, and say what is well and what to do."""

from collections.abc import Sequence

from ..._arguments import check_count, check_flag, check_seconds, check_text, is_of
from ...connection import Connection, secrets_in
from ...errors import ConnectError, InvalidOptionError
from ...event_types import EventTypes, class_of_events
from ...patterns import Pattern, check_prefix
from .._jetstream.names import Names
from .._jetstream.stream import MAX_REPLICAS
from .checks import examine
from .findings import Finding, bad, without
from .monitoring import MonitoringPort
from .questions import Wanted, ask_for_all

__all__ = ["diagnose"]


def diagnose(
    connection: Connection,
    stream: str = "events",
    *,
    namespace: str | None = None,
    replicas: int = 1,
    store: bool = True,
    prefix: str = "aether",
    patterns: Sequence[str] | None = None,
    monitor: str | None = None,
    types: EventTypes | None = None,
    timeout: float = 5.0,
) -> list[Finding]:
    """Look at a server, and at what a bus and a store need of it, and return what is well and what is not.

    It changes nothing on the server. To find out what the user may do, it tries publishes and subscriptions, unless the
    server says that there are no limits. The server passes none of these publishes on, but notes them in its log, as
    errors of this user. ``aether-sync doctor`` shows the same findings. Give it a connection of its own, so that these
    refusals are not taken for those of a bus.

    Args:
        connection: The connection to the server, with the credentials that are to be looked at.
        stream: The store's stream, as for ``JetStreamEventStore``.
        namespace: The store's namespace; None for none.
        replicas: How many servers should keep the stream.
        store: Whether to look at a store. Without one, JetStream is not needed.
        prefix: The prefix of the bus, as for ``NATSEventBus``.
        patterns: What the programs publish and subscribe to on the bus, as patterns. A refusal of one of these is
            ``"bad"``. By default everything is tried, and a refusal is ``"warn"``: a user need not have all rights.
        monitor: The URL of the server's monitoring port, such as ``http://host:8222``, which shows more. It may also be
            that of another server of the cluster, but what it tells is of that server then. By default none is asked. A
            user and a password in it are for a proxy before the port, by "Basic" authentication.
        types: The event types of the program, as of ``store.types``. Then one finding names the types and versions of
            events that they do not know. It looks at the latest events, as many as the check of saves does: 100,000 or
            32 MiB at most, and says how many these were.
        timeout: Seconds for each question, and for reading the latest events.

    Returns:
        The findings, in the order in which they should be read. If no connection can be made, one that says why.

    Raises:
        InvalidOptionError: An option is of the wrong type, or out of its range; a store cannot use the connection; or
            the types lack an upcaster.
        InvalidNamespaceError: A pattern is not valid.
        BusClosedError: The connection is closed.
        DeadlineExceededError: The connection was lost meanwhile, and did not come back in time.
    """
    if not is_of(connection, Connection):
        raise InvalidOptionError(f"connection must be a Connection, not {type(connection).__name__}")
    class_of_events(types)
    if types is not None:
        types.check()
    monitor = check_text("monitor", monitor)
    port = None if monitor is None else MonitoringPort(monitor)
    if isinstance(patterns, str):
        raise InvalidOptionError(f"patterns must be several, such as [{patterns!r:.80}], not a str")
    wanted = Wanted(
        names=Names(stream, namespace) if check_flag("store", store) else None,
        replicas=check_count("replicas", replicas, MAX_REPLICAS),
        prefix=check_prefix(prefix),
        patterns=None if patterns is None else tuple(Pattern.parse(one).text for one in patterns),
        monitor=port,
        types=types,
    )
    timeout = check_seconds("timeout", timeout)
    try:
        findings = examine(ask_for_all(connection, wanted, timeout))
    except ConnectError as error:
        findings = [bad("connection", str(error), "see the URL, the credentials, and whether the server runs")]
    return without(secrets_in(connection) | (port.secrets if port is not None else frozenset()), findings)
