"""The rooms of the package: who imports whom, where the loop lives, and what is public."""

import ast
import importlib
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

import aether_sync

from ..support.django import set_up

PACKAGE = Path(aether_sync.__file__).parent

#: From the bottom up, by folder: a room imports only from rooms before it in its list. Of a folder that is not the
#: importing file's own, only the folder counts.
ROOMS: dict[str, list[str]] = {
    "": [
        "_version", "_values", "errors", "_arguments", "events", "patterns", "metrics", "notices", "_codec",
        "_runtime", "event_types", "handler_arguments", "instrumentation", "handling_context", "health", "_nats",
        "connection", "_bus", "subscription", "subscription_runner", "bus", "nats_bus", "stores", "sourcing", "outbox",
        "worker", "server", "testing",
        "__init__", "contrib", "cli", "__main__",
    ],
    "contrib": [
        "_extra", "celery", "eventsourcing", "opentelemetry", "prometheus", "sqlalchemy", "sse", "gunicorn", "flask",
        "django",
    ],
    "contrib/sse": [
        "_format", "_counts", "_connection", "_stopping", "_stream", "_tail", "_store_stream", "_subscription_stream",
        "__init__",
    ],
    "contrib/celery": ["_task_runs", "_settings", "_aether", "__init__"],
    "contrib/eventsourcing": ["_errors", "_records", "_datastore", "_recorders", "_factory", "__init__"],
    "contrib/flask": ["_settings", "_parts", "_after_response", "_health", "_commands", "_extension", "__init__"],
    "contrib/opentelemetry": ["conventions", "propagation", "tracing", "__init__"],
    "_values": ["class_parts", "clock", "counting", "shown", "trace_context"],
    "_codec": ["decoding", "encoding", "envelope"],
    "_runtime": [
        "green", "threads", "batches", "registry", "signals", "again", "deadline", "locks", "waits", "uwsgi", "fork",
        "exit", "closing", "only_thread", "reporter", "stop_signals", "handler_threads", "listeners",
        "standard_files", "base_loop", "uvloop", "event_loop", "loop_thread",
    ],
    "_nats": [
        "interest", "lines", "files", "login", "uplink", "shortcut", "outbox", "reasons", "checks", "contexts", "tls",
        "settings", "servers", "options", "fast_reader", "parser", "client", "refusals", "pump", "call", "requests",
        "subscriber", "connector", "link", "engine", "channel", "vitals",
    ],
    "_bus": [
        "counting", "index", "bounded", "readers", "queue", "routing", "recent_payloads", "incoming", "store_watch",
    ],
    "stores": [
        "base", "retrying", "_checks", "_wanted", "_measuring", "_noticing", "_memory_log", "_jetstream", "consumers",
        "projections", "event_store", "_memory_queue", "_memory_consumers", "_store_base", "memory", "jetstream",
        "admin", "doctor",
    ],
    "stores/_jetstream": [
        "names", "error_codes", "answers", "earlier", "messages", "tries", "listing", "api", "stream", "vitals",
        "saves", "cache", "capacity", "group_commit", "reader", "history", "kept", "walk", "loader", "draft", "writer",
        "snapshots", "parts", "pull", "flow", "record_flow", "follower",
        "turns",
    ],
    "stores/consumers": [
        "base", "delivery", "handlers", "retry_policy", "consumption", "lanes", "runner", "context", "draining",
        "arrivals",
        "dead_letters", "durable", "ack_extender", "settling", "sources", "pulled", "server_backend",
    ],
    "stores/projections": [
        "base", "source", "checkpoints", "chunks", "applying", "again", "progress", "announcing", "projector",
        "shadows", "rebuilding", "projection", "_cursor_link", "_sqlite_link", "dbapi", "sqlite",
    ],
    "stores/doctor": [
        "faults", "rights", "findings", "monitoring", "shapes", "questions", "server_checks", "checks", "diagnosis",
    ],
    "sourcing": [
        "_evolution", "_decisions", "_commands", "_classes", "_states", "_saver", "scenario", "repository",
        "read_your_writes",
    ],
    "worker": [
        "calls", "idempotence", "on_bus", "on_consumer", "on_projection", "on_relay", "turns",
        "periodic", "parts", "time_limits", "worker",
    ],
    "outbox": [
        "rows", "database", "turns", "taking", "outcome", "storing", "publishing", "sending", "working", "relay",
        "__init__",
    ],
    "contrib/django": [
        "_settings", "_connections", "_commits", "_sse", "_database", "models", "_outbox_table", "outbox", "registry",
        "_commands", "dead_letters", "checks", "apps", "admin", "testing", "workers", "migrations", "management",
        "__init__",
    ],
    "contrib/sqlalchemy": ["_database", "_outbox", "__init__"],
    "contrib/prometheus": [
        "_families", "_reading", "_exporter", "_ticker", "_asking", "_collector", "_slots", "_writer", "_registration",
        "_http", "__init__", "__main__",
    ],
    "server": ["watcher", "process", "configuration", "server", "cluster"],
    "testing": [
        "_committing", "_histories", "_lines", "_progress", "_playing", "_children", "_stage", "_trials", "_shrinking",
        "_report", "survives", "_link", "_logs", "_published", "_failures", "_guard", "_means", "_unittest", "__init__",
    ],
    "cli": [
        "_access", "demo", "_shell", "_progress", "_options", "_lines", "_program", "_types", "_bus", "_store",
        "_append", "_export_file", "_export", "_import_there", "_import", "_rebuild", "supervisor", "_run", "_doctor",
        "_health", "_example", "_guide", "_commands", "_embedded", "__init__",
    ],
    "cli/supervisor": [
        "messages", "program", "child", "wakeup", "process", "supervisor", "ports", "metrics", "watching", "__init__",
    ],
    "cli/demo": ["plan", "audit", "node", "show", "run", "__init__"],
}  # fmt: skip

#: May use asyncio, and have coroutines: they run on the loop thread.
ON_THE_LOOP = {
    "_nats",
    "_bus/incoming",
    "_runtime/base_loop",
    "_runtime/uvloop",
    "_runtime/event_loop",
    "_runtime/loop_thread",
}

#: May use asyncio, and have coroutines: they run on event loops of the user, and are woken from any thread.
ON_THE_USERS_LOOP = {"_bus/readers", "_bus/queue", "contrib/sse/_stream"}

#: Have coroutines that only pass on what those do.
HAS_COROUTINES = {"subscription", "contrib/sse/_store_stream", "contrib/sse/_subscription_stream"}

#: Know bytes and subjects, and nothing of events.
BELOW_EVENTS = {"_values", "_runtime", "_nats"}

#: Have the commands of the library within those of a framework, so they import ``cli``, which is behind them.
HAS_COMMANDS = {"contrib/flask/_commands"}

#: Scripts of their own process, which import nothing of the package.
STANDALONE = {"server/watcher"}

FOLDERS = sorted({path.parent for path in PACKAGE.rglob("*.py") if "examples" not in path.parts})  # which users copy


def of_each_file(check: Callable[[Path], None]) -> Callable[[object, Path], None]:
    """Make a test of a check of one file: it checks those of a folder."""

    def test(self: object, folder: Path) -> None:
        for path in sorted(folder.glob("*.py")):
            try:
                check(path)
            except AssertionError as error:
                error.add_note(f"in {path.relative_to(PACKAGE)}")
                raise

    return test


def place_of(path: Path) -> tuple[str, ...]:
    return path.relative_to(PACKAGE).with_suffix("").parts


def is_in(path: Path, places: set[str]) -> bool:
    place = place_of(path)
    return any("/".join(place[:depth]) in places for depth in range(1, len(place) + 1))


@cache
def imports(path: Path) -> list[tuple[str, ...]]:
    """What a file imports: the name of a package, or of this one's own the whole place."""
    found: list[tuple[str, ...]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name.partition(".")[0],) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = tuple((node.module or "").split(".")) if node.module else ()
            if node.level:
                place = place_of(path)
                base = ("aether_sync", *place[: len(place) - node.level])
                found += [(*base, *module)] if module else [(*base, alias.name) for alias in node.names]
            else:
                found.append(module if module[0] == "aether_sync" else module[:1])
    return found


def test_every_room_has_its_place() -> None:
    for folder, rooms in ROOMS.items():
        there = {
            path.stem
            for path in (PACKAGE / folder).iterdir()
            if path.suffix == ".py" or (path / "__init__.py").exists()
        }
        assert there - set(rooms) <= {"__init__"}
        assert set(rooms) <= there


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(PACKAGE)))
class TestEveryFile:
    @of_each_file
    def test_it_imports_only_from_rooms_before_its_own(path: Path) -> None:
        own = place_of(path)
        for package, *other in imports(path):
            if package != "aether_sync":
                continue
            assert not is_in(path, STANDALONE)
            other = other or ["__init__"]
            if is_in(path, HAS_COMMANDS) and other == ["cli", "_embedded"]:
                continue
            depth = next(at for at, (one, two) in enumerate(zip(own, other, strict=False)) if one != two)
            order = ROOMS["/".join(own[:depth])]
            assert order.index(other[depth]) < order.index(own[depth]), f"{'/'.join(own)} imports {'/'.join(other)}"

    @of_each_file
    def test_janus_nats_and_asyncio_stay_in_their_rooms(path: Path) -> None:
        names = {name for name, *_ in imports(path)}
        assert "janus" not in names or is_in(path, {"_bus/queue"})
        assert "nats" not in names or is_in(path, {"_nats"})
        assert "asyncio" not in names or is_in(path, ON_THE_LOOP | ON_THE_USERS_LOOP)
        if not is_in(path, ON_THE_LOOP | ON_THE_USERS_LOOP | HAS_COROUTINES):
            text = path.read_text()
            assert "async" not in text or not [
                node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.AsyncFunctionDef)
            ]

    @of_each_file
    def test_what_stands_below_events_knows_none(path: Path) -> None:
        if is_in(path, BELOW_EVENTS):
            own = {place[1] for place in imports(path) if place[0] == "aether_sync" and len(place) > 1}
            assert not own & {"events", "patterns", "_codec"}

    @of_each_file
    def test_the_stores_log_by_the_reporter(path: Path) -> None:
        if is_in(path, {"stores"}) and re.search("logging|logger", text := path.read_text()):  # each record has a kind
            calls = [node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
            assert not [one for one in map(ast.unparse, calls) if one.startswith(("logging.", "logger."))]

    @of_each_file
    def test_it_says_exactly_what_it_has(path: Path) -> None:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree) or not tree.body, "a room says what it is for"
        if path.name.startswith("__") or is_in(path, STANDALONE):
            return
        if is_in(path, {"contrib/django"}):
            set_up()
        module = importlib.import_module(".".join(("aether_sync", *place_of(path))))
        public = {
            node.name
            for node in tree.body
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
            if not (is_in(path, {"cli"}) and node.decorator_list)  # the commands are reached through main()
        }
        assert public <= set(module.__all__), f"not in __all__: {public - set(module.__all__)}"
        assert all(hasattr(module, name) for name in module.__all__)


def test_public_names_are_pinned() -> None:
    assert aether_sync.__all__ == [
        "ANY_VERSION", "EVENT_STORED", "NO_EVENTS", "PROJECTION_ADVANCED", "ActorState", "AetherError", "AnyVersion",
        "AtomicAppendUnsupportedError", "BusClosedError", "CallMetrics", "CloseReport", "ClosedError", "ConnectError",
        "Connection", "ConnectionFailedError", "ConnectionOptions", "Consumer", "ConsumerState", "Consumption",
        "DBAPI", "Database", "DeadLetter", "DeadlineExceededError", "Decided", "DecidedTogether", "DecodingError",
        "Delivery", "DeliveryUncertainError", "DisconnectedError", "DuplicateIdError", "EncodingError", "Event",
        "EventBus", "EventStore", "EventStored", "EventTooLargeError", "EventTypeError", "EventTypes", "Failure",
        "Finding", "Follower", "FollowerStats", "Given", "Handleable", "Handler", "HandlerMetrics", "HandlingContext",
        "HandlingFilter", "HasHealth", "Health", "Histogram", "InMemoryEventStore", "InvalidEventError",
        "InvalidNamespaceError", "InvalidOptionError", "JetStreamEventStore", "Link", "LoadedActor",
        "MalformedRecord", "MalformedRecordError", "Metrics", "NATSCluster", "NATSEventBus", "NATSServer", "Notice",
        "NoticeCallback", "Observer", "Operation", "OutboxError", "PermissionDeniedError", "Projection",
        "ProjectionAdvanced", "ProjectionError", "ProjectionMismatchError", "ProjectionStoppedError",
        "ProjectionUnavailableError",
        "PublishTimeoutError", "ReadYourWrites", "ReadYourWritesStats", "Reading", "Repository", "RetryPolicy",
        "RetryableError", "Runner", "RunnerMetrics", "Scenarios", "SQLite", "ServerError", "ServerNotFoundError",
        "SetAside", "Snapshot", "Stamp", "StoreClosedError", "StoreError", "StoreMetrics", "StoreUnavailableError",
        "StoredEvent",
        "StreamMismatchError", "StreamRegressionError", "Subscription", "SubscriptionClosedError",
        "SubscriptionFilter", "SubscriptionOverflowError", "SubscriptionRunner", "SubscriptionStats",
        "TimeLimitExceededError", "UnknownEventTypeError", "UnknownOutcomeError", "UnsupportedError",
        "VersionConflictError", "VersionListener", "When", "Worker", "WorkerError", "WorkerMetrics",
        "WrongThreadError", "__version__", "actor_type", "add_handling", "current_handling", "diagnose",
        "end_iterations", "flush_logs", "handling", "health_app", "instrument", "interruptible", "retry_on_conflict",
    ]  # fmt: skip
    assert all(hasattr(aether_sync, name) for name in aether_sync.__all__)


def test_a_connection_shows_only_what_a_user_may_call() -> None:
    assert {name for name in dir(aether_sync.Connection) if not name.startswith("_")} == {
        "close", "closed", "flush", "from_context", "health", "is_connected", "on", "reconnects", "server_info",
        "start", "started", "wait_connected",
    }  # fmt: skip


def test_every_error_is_of_one_tree_and_drawn() -> None:
    from aether_sync import errors

    for name in errors.__all__:
        error = getattr(errors, name)
        assert issubclass(error, errors.AetherError)
        assert name in (errors.__doc__ or "")
