"""The rooms of the package: who imports whom, where the loop lives, and what is public."""

import ast
import importlib
from pathlib import Path

import pytest

import aether_sync

PACKAGE = Path(aether_sync.__file__).parent

#: From the bottom up: a room imports only from rooms above it in this list. A directory is one room.
ROOMS = [
    "_version", "_short", "_clock", "errors", "_checks", "events", "_wire", "patterns", "_deadline", "_batches",
    "_waiting", "_threads", "_green", "_fork", "_exit", "_lifetime", "_reporter", "metrics", "_queues", "_outbox",
    "_index", "_routing", "subscription", "bus", "_base_loop", "_uvloop", "_loop", "_nats", "_engine", "connection",
    "_store_watch", "nats_bus", "stores",
    "_watcher", "_server_process", "server", "__init__", "_demo", "cli", "__main__",
]  # fmt: skip

#: Run on the loop thread, and so may have coroutines.
ON_THE_LOOP = {"_base_loop", "_uvloop", "_loop", "_nats", "_outbox"}

#: Scripts of their own process, which import nothing of the package.
STANDALONE = {"_watcher"}

FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, str]]:
    """Pairs of (top-level module or package, room of this package or "")."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name.partition(".")[0], "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                found.append(((node.module or "").partition(".")[0], ""))
                if (node.module or "").startswith("aether_sync"):
                    found.append(("aether_sync", (node.module or "").partition(".")[2].partition(".")[0] or "__init__"))
                continue
            depth = len(path.relative_to(PACKAGE).parts)
            if node.level == depth:
                names = [node.module] if node.module else [alias.name for alias in node.names]
                found += [("aether_sync", name.partition(".")[0]) for name in names]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
class TestEveryFile:
    def test_it_imports_only_from_rooms_above(self, path: Path) -> None:
        room = room_of(path)
        if room in STANDALONE:
            assert not [name for name, _ in imports(path) if name == "aether_sync"]
            return
        for name, other in imports(path):
            if name == "aether_sync" and other and other != room:
                assert ROOMS.index(other) < ROOMS.index(room), f"{room} imports {other}"

    def test_janus_nats_and_asyncio_stay_in_their_rooms(self, path: Path) -> None:
        room, names = room_of(path), {name for name, _ in imports(path)}
        assert "janus" not in names or room == "_queues"
        assert "nats" not in names or room == "_nats"
        assert "asyncio" not in names or room in ON_THE_LOOP
        if room not in ON_THE_LOOP:
            coroutines = [
                node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.AsyncFunctionDef)
            ]
            assert not coroutines

    def test_the_stores_log_by_the_reporter(self, path: Path) -> None:
        if room_of(path) == "stores":  # each record has a kind
            calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            assert not [one for one in map(ast.unparse, calls) if one.startswith(("logging.", "logger."))]

    def test_it_says_exactly_what_it_has(self, path: Path) -> None:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree) or path.stat().st_size < 200, "a room says what it is for"
        if room_of(path) in {
            "__init__",
            "__main__",
            "_nats",
            "stores",
            "_demo",
            "cli",
        } | STANDALONE and path.name.startswith("__"):
            return
        if room_of(path) == "_uvloop":
            pytest.importorskip("uvloop")
        module = importlib.import_module("aether_sync." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts))
        public = {
            node.name
            for node in tree.body
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
            if room_of(path) != "cli" or not node.decorator_list  # the commands are reached through main()
        }
        if room_of(path) not in STANDALONE:
            assert public <= set(module.__all__), f"not in __all__: {public - set(module.__all__)}"
            assert all(hasattr(module, name) for name in module.__all__)


def test_public_names_are_pinned() -> None:
    assert aether_sync.__all__ == [
        "ANY", "EVENT_STORED", "NO_EVENTS", "AetherError", "AnyVersion", "AtomicAppendUnsupportedError",
        "BusClosedError", "CloseReport", "ClosedError", "ConnectError", "Connection", "ConnectionFailedError",
        "ConsumerState", "Consumption", "DeadlineExceededError", "DecodingError", "Delivery", "DeliveryUncertainError",
        "DisconnectedError", "DuplicateIdError", "EncodingError", "Event", "EventBus", "EventStore", "EventStored",
        "EventTooLargeError", "Follower", "InMemoryEventStore", "InvalidEventError", "InvalidNamespaceError",
        "InvalidOptionError", "JetStreamEventStore", "LoadedActor", "MalformedRecord", "MalformedRecordError",
        "Metrics", "NATSEventBus", "NatsCluster", "NatsServer", "PermissionDeniedError", "Poisoned",
        "PublishTimeoutError", "Reading", "Runner", "ServerError", "ServerNotFoundError", "Snapshot",
        "StoreClosedError", "StoreError", "StoreUnavailableError", "StoredEvent", "StreamMismatchError",
        "StreamRegressionError", "Subscription", "SubscriptionClosedError", "SubscriptionFilter",
        "SubscriptionOverflowError", "SubscriptionStats", "UnknownOutcomeError", "UnsupportedError",
        "VersionConflictError", "WrongThreadError", "__version__", "actor_type", "end_iterations", "flush_logs",
        "retry_on_conflict",
    ]  # fmt: skip
    assert all(hasattr(aether_sync, name) for name in aether_sync.__all__)


def test_every_error_is_of_one_tree_and_drawn() -> None:
    from aether_sync import errors

    for name in errors.__all__:
        error = getattr(errors, name)
        assert issubclass(error, errors.AetherError)
        assert name in (errors.__doc__ or "")
