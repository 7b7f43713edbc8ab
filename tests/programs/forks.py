"""Programs that fork."""

import contextlib
import gc
import itertools
import multiprocessing
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

import pytest

from aether_sync import (
    BusClosedError,
    ClosedError,
    ConnectError,
    Connection,
    DeadlineExceededError,
    DeliveryUncertainError,
    Event,
    EventBus,
    NATSEventBus,
    StoreMetrics,
    Subscription,
    SubscriptionClosedError,
)
from aether_sync._runtime.deadline import Deadline
from aether_sync._runtime.event_loop import new_loop
from aether_sync._runtime.fork import ForkAware, fork_aware
from aether_sync._runtime.locks import signal_safe_lock
from aether_sync._runtime.loop_thread import LoopThread
from aether_sync.stores.base import ANY_VERSION, Follower
from aether_sync.stores.jetstream import JetStreamEventStore
from aether_sync.stores.memory import InMemoryEventStore

from ..support.inside import engine_of, event_loop_of, files_of, has_engine, transport_of

PATIENCE = 20 * float(os.environ.get("AETHER_TEST_UNIT", "1"))


def event(actor: str, n: int = 0) -> Event:
    return Event(event_type="Happened", actor_id=actor, version=n)


def in_child(work: Callable[[], object]) -> int:
    """Fork, work in the child, and return its pid; the child ends with 0 if the work raised nothing."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)


def await_child(pid: int) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0, f"child {pid}: {os.waitstatus_to_exitcode(status)}"
            return
        if time.monotonic() > end:
            os.kill(pid, signal.SIGABRT)  # faulthandler shows where it hangs
            os.waitpid(pid, 0)
            raise AssertionError(f"child {pid} did not end")
        time.sleep(0.002)


def refused(subscription: Subscription) -> None:
    """A subscription of the parent refuses, whichever way it is read."""
    for read in (
        lambda: subscription.get(timeout=PATIENCE),
        lambda: subscription.get_batch(9),
        lambda: list(subscription),
    ):
        with pytest.raises(SubscriptionClosedError, match="before the fork"):
            read()
    subscription.close()


def a_node_of_its_own(url: str, prefix: str) -> None:
    bus, untouched, closed = (NATSEventBus(url, prefix=prefix) for _ in range(3))
    closed.start()
    closed.close()
    mine = bus.subscribe("n.*")
    bus.publish_many("n.a", [event("early", n) for n in range(3)])
    parent = bus.node_id

    def child() -> None:
        assert bus.node_id != parent
        assert bus.metrics().node_id == bus.node_id
        assert (bus.metrics().published, bus.metrics().active_subscriptions, bus.is_connected) == (0, 0, False)
        refused(mine)
        with bus.subscribe("n.>", timeout=PATIENCE) as own:
            bus.publish("n.b", event("child", 1))
            assert own.get(timeout=PATIENCE).actor_id == "child"
        untouched.publish("n.b", event("child", 2))
        assert untouched.close(PATIENCE)
        with pytest.raises(BusClosedError):
            closed.publish("n.b", event("child", 3))
        bus.flush(PATIENCE)
        assert bus.close(PATIENCE)

    await_child(in_child(child))
    bus.publish("n.a", event("late"))
    seen = [mine.get(timeout=PATIENCE).actor_id for _ in range(6)]
    assert seen == ["early"] * 3 + ["child"] * 2 + ["late"], seen
    assert bus.metrics().reconnects == 0
    assert bus.node_id == parent
    mine.close()
    assert bus.close(PATIENCE)
    assert untouched.close(PATIENCE)


def pause_reading(bus: NATSEventBus) -> None:
    """As it is while more comes than can be read: then no selector knows the socket."""
    paused = threading.Event()
    loop = engine_of(bus).loop
    loop.post(lambda: transport_of(bus).pause_reading())
    loop.post(paused.set)
    assert paused.wait(PATIENCE)


def a_connection_is_let_go_of(url: str, prefix: str, how: str) -> None:
    """The parent closes while a child lives on that does nothing with the bus."""
    bus = NATSEventBus(url, prefix=prefix)
    bus.start()
    if how == "paused":
        pause_reading(bus)
    pid = in_child(signal.pause)
    assert bus.close(PATIENCE)
    print(pid, flush=True)
    sys.stdin.readline()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def connections_and_polls() -> set[int]:
    """The numbers of open files that are one or the other."""
    found = set()
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # that of the listing itself
            name = os.readlink(f"/proc/self/fd/{number}")
            if "eventpoll" in name or ("socket" in name and _family(number) != socket.AF_UNIX):
                found.add(number)
    return found


def _family(number: int) -> int:
    with socket.socket(fileno=os.dup(number)) as sock:
        return sock.family


def what_a_child_keeps(url: str, prefix: str, how: str) -> None:
    """Nothing of the parent's loop by which it could hold a connection or wake it; and it does not try to."""
    own = connections_and_polls()
    bus = NATSEventBus(url, prefix=prefix, connect_timeout=PATIENCE)
    connecting = threading.Thread(target=bus.wait_connected, args=(1.0,))
    connecting.start()
    if how == "connected":
        connecting.join()
    while not has_engine(bus):
        time.sleep(0.002)
    engine, loop = engine_of(bus), event_loop_of(bus)

    def known() -> set[int]:  # a loop does not know a socket at the very moment when it is made
        return files_of(engine)

    while len(found := connections_and_polls() - own) < 2 or not found <= known():
        time.sleep(0.002)

    def child() -> None:
        assert connections_and_polls() == own
        posted: list[object] = []
        loop.call_soon_threadsafe = posted.append  # type: ignore[method-assign]
        engine.loop.call_soon(lambda: None)
        with pytest.raises(BusClosedError):
            engine.loop.post(lambda: None)
        assert not posted

    await_child(in_child(child))
    assert bus.is_connected == (how == "connected")
    connecting.join()
    bus.close(0.1)


def a_loop_that_never_ran() -> None:
    """The child, to which it is of no use, starts it, stops it, collects it, and comes to its end."""
    fast = os.environ["AETHER_SYNC_UVLOOP"] == "1"
    thread = LoopThread(new_loop(fast, print), print)
    loop = new_loop(True, print) if fast else None  # one that no thread has yet
    pid = os.fork()
    if pid:
        await_child(pid)
    else:
        thread.start()
    assert thread.stop(Deadline(PATIENCE))
    del loop
    gc.collect()


def under_load(url: str, prefix: str, children: str, where: str) -> None:
    """Fork again and again while four threads publish and two iterate; children publish, subscribe and end."""
    bus = NATSEventBus(url, prefix=prefix)
    stop = threading.Event()
    published = [0] * 4
    got: list[Event] = []
    subscription = bus.subscribe("n.>", maxsize=1_000_000)

    def publish(number: int) -> None:
        while not stop.is_set():
            bus.publish(f"n.{number}", event(f"p-{number}", published[number]))
            published[number] += 1
            if published[number] % 50 == 0:
                time.sleep(0.001)

    def iterate() -> None:
        for one in subscription:
            got.append(one)

    def child(number: int) -> None:
        refused(subscription)
        with bus.subscribe("own.*", timeout=PATIENCE) as own:
            bus.publish("own.x", event("mine"))
            assert own.get(timeout=PATIENCE).actor_id == "mine"
        bus.publish_many("n.c", [event(f"c-{number}", n) for n in range(10)])
        assert bus.close(PATIENCE)

    def fork() -> None:
        for number in range(int(children)):
            time.sleep(random.uniform(0, 0.02))
            await_child(in_child(lambda number=number: child(number)))  # type: ignore[misc]

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(4)]
    threads += [threading.Thread(target=iterate) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        if where == "main":
            fork()
        else:
            forking = threading.Thread(target=fork)
            forking.start()
            forking.join()
    finally:
        stop.set()
        for thread in threads[:4]:
            thread.join(PATIENCE)
    bus.flush(PATIENCE)
    end = time.monotonic() + PATIENCE
    expected = sum(published) + 10 * int(children)
    while len(got) < expected and time.monotonic() < end:
        time.sleep(0.01)
    assert bus.metrics().reconnects == 0
    subscription.close()
    assert bus.close(PATIENCE)
    for thread in threads:
        thread.join(PATIENCE)
    keys = [(one.actor_id, one.version) for one in got]
    assert len(keys) == len(set(keys)) == expected, (len(keys), len(set(keys)), expected)


def no_lock_survives(forks: str) -> None:
    """A plain bus, forked while its locks are busy: the child publishes, iterates, measures and closes at once."""
    bus = EventBus()
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            with bus.subscribe("n", "m.*") as events:
                bus.publish_many("n", [event("x")] * 20)
                bus.metrics()
                events.get_batch(5, timeout=0)

    def child() -> None:
        with bus.subscribe("n") as events:
            bus.publish("n", event("child"))
            assert events.get(timeout=PATIENCE).actor_id == "child"
            assert bus.metrics().published == 1
        assert bus.close(PATIENCE)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(int(forks)):
        await_child(in_child(child))
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
    bus.close()


def a_store_in_memory(forks: str) -> None:
    """Forked while threads save, read and follow: the child has whole saves, and waits for nobody."""
    store = InMemoryEventStore()
    stop, go_on = threading.Event(), threading.Event()

    def save(n: int) -> None:
        while not stop.is_set():
            go_on.wait(PATIENCE)  # or each child has more to read than the one before
            store.append("all", event("all"), expected_version=ANY_VERSION)
            version = store.get_latest_version(f"a-{n}") + 1
            store.save_events([event(f"a-{n}", version), event(f"b-{n}", version), event(f"a-{n}", version + 1)])

    def child(follower: Follower) -> None:
        last = store.last_sequence()
        assert {*store.metrics().calls} == {"last_sequence"}, "what the parent did counts there alone"
        history = [one.sequence for one in itertools.islice(store.follow(), last)]
        assert history == list(range(1, last + 1))
        for n in range(2):
            saves = [store.read_together(f"a-{n}", f"b-{n}")[f"{letter}-{n}"] for letter in "ab"]
            assert len(saves[0]) == 2 * len(saves[1])
        (stored,) = store.append("child", event("child"), expected_version=0)
        assert stored.sequence == last + 1
        while follower.get(timeout=PATIENCE) != stored:
            pass
        reader = threading.Thread(target=lambda: list(follower))
        reader.start()
        store.close()
        reader.join(PATIENCE)
        assert not reader.is_alive()

    follower = store.follow()
    works: list[Callable[[], object]] = [lambda: save(0), lambda: save(1), lambda: [None for _ in store.follow()]]
    works.append(lambda: [None for _ in follower])
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for _ in range(int(forks)):
        go_on.set()
        time.sleep(random.uniform(0, 2e-3))
        pid = in_child(lambda: child(follower))
        go_on.clear()
        await_child(pid)
    stop.set()
    go_on.set()
    for thread in threads[:2]:
        thread.join(PATIENCE)
    store.close()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def the_outbox_is_the_parents(url: str, prefix: str) -> None:
    """The server is away, events wait to be sent; a child that connects does not send them too."""
    bus = NATSEventBus(url, prefix=prefix, connect_timeout=0.5)
    bus.start()
    print("connected", flush=True)
    sys.stdin.readline()
    while bus.is_connected:
        time.sleep(0.002)
    bus.publish_many("n", [event("parent", n) for n in range(5)])

    def child() -> None:
        assert bus.metrics().outbox_events == 0
        with pytest.raises(ConnectError, match="refused"):
            bus.start()
        bus.publish("n", event("child"))
        print("forked", flush=True)
        assert bus.wait_connected(PATIENCE)
        assert bus.close(PATIENCE)

    await_child(in_child(child))
    assert bus.wait_connected(PATIENCE)
    bus.flush(PATIENCE)
    assert bus.close(PATIENCE)


def one_heir_raises(url: str, prefix: str) -> None:
    """The others begin anew all the same."""

    class Wrong(ForkAware):
        def _after_fork(self) -> None:
            raise ZeroDivisionError

    wrong = Wrong()
    fork_aware.add(wrong)
    bus = NATSEventBus(url, prefix=prefix)
    bus.start()
    parent = bus.node_id

    def child() -> None:
        assert bus.node_id != parent
        bus.publish("n", event("child"))
        bus.flush(PATIENCE)
        assert bus.close(PATIENCE)

    await_child(in_child(child))
    assert bus.close(PATIENCE)


def a_fork_within_a_guard() -> None:
    """As a signal handler does it, over code that holds one; another thread holds another."""
    mine, other, held = signal_safe_lock(), signal_safe_lock(), threading.Event()

    def hold() -> None:
        with other:
            held.set()
            threading.Event().wait(PATIENCE)

    threading.Thread(target=hold, daemon=True).start()
    held.wait()
    with mine:
        pid = os.fork()
        if pid == 0:
            assert other.acquire(timeout=PATIENCE)
            other.release()
            assert mine.acquire(timeout=PATIENCE)
            mine.release()
    if pid == 0:
        with mine:
            pass
        os._exit(0)
    await_child(pid)


def what_is_inherited_is_collected(url: str, prefix: str) -> None:
    """In the child nobody warns of what the parent has open, and nothing is done to it."""
    buses = [NATSEventBus(url, prefix=prefix) for _ in range(3)]
    subscriptions = [bus.subscribe("n") for bus in buses[:2]]
    buses[2].start()
    pause_reading(buses[2])

    def child() -> None:
        buses.clear()
        subscriptions.clear()
        gc.collect()

    await_child(in_child(child))
    buses[0].publish("n", event("parent"))
    for subscription in subscriptions:
        assert subscription.get(timeout=PATIENCE).actor_id == "parent"
        subscription.close()
    for bus in buses:
        assert bus.metrics().reconnects == 0
        assert bus.close(PATIENCE)


def a_handler_forks_over(url: str, prefix: str, what: str) -> None:
    """A signal handler forks in the middle of a call, which comes to an end in both processes."""
    bus = NATSEventBus(url, prefix=prefix, outbox_events=1, publish_timeout=PATIENCE, connect_timeout=1.0)
    subscription = bus.subscribe("n")
    pids: list[int] = []
    is_child = False

    def handle(*_: object) -> None:
        nonlocal is_child
        pid = os.fork()
        is_child = pid == 0
        if pid:
            pids.append(pid)
            os.write(1, b"forked\n")  # in one piece: the child says something too
            if not what.startswith("close"):
                bus.close(0)

    def publish() -> None:
        while not is_child:
            bus.publish_many("m", [event("x")] * 1000)

    calls: dict[str, Callable[[], object]] = {
        "get": lambda: subscription.get(timeout=None),
        "publish": publish,
        "flush": lambda: bus.flush(None),
        "subscribe": lambda: bus.subscribe("fresh", timeout=None),
        "wait_connected": lambda: bus.wait_connected(None),
        "close": lambda: bus.close(None),
        "close after another": lambda: bus.close(None),
    }
    print("ready", flush=True)
    sys.stdin.readline()  # the test may break the server
    if what == "wait_connected":
        while bus.is_connected:
            time.sleep(0.002)
    elif what in ("flush", "close", "close after another"):
        bus.publish("m", event("x"))
    if what == "close after another":
        threading.Thread(target=lambda: bus.close(None)).start()
        while not bus.closed:
            time.sleep(0.002)
    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    with contextlib.suppress(ClosedError, DeliveryUncertainError):
        calls[what]()
    assert is_child or pids
    if is_child:
        os.write(1, b"ended\n")
        # The test may have broken the server.
        with (
            contextlib.suppress(ConnectError, DeadlineExceededError, ClosedError),
            bus.subscribe("n", timeout=1.0) as own,
        ):
            bus.publish("n", event("child"))
            assert own.get(timeout=PATIENCE).actor_id == "child"
        bus.close(1.0)
        os._exit(0)
    await_child(pids[0])


def while_connecting(url: str, prefix: str) -> None:
    """The parent waits for a server that never says a word; its child goes elsewhere."""
    bus = NATSEventBus(url, prefix=prefix, connect_timeout=0.5)
    waiting = threading.Thread(target=lambda: bus.wait_connected(0.5))
    waiting.start()
    time.sleep(0.1)

    def child() -> None:
        begun = time.monotonic()
        assert not bus.wait_connected(0.1)
        bus.close(1.0)
        assert time.monotonic() - begun < PATIENCE

    await_child(in_child(child))
    waiting.join()
    bus.close(1.0)


bus_of_the_module: NATSEventBus | None = None


def work_in_a_process(prefix: str, number: int) -> None:
    """What a ``multiprocessing`` child does, with a bus made at import or inherited; it closes nothing."""
    bus = bus_of_the_module or NATSEventBus(os.environ["NATS_URL"], prefix=prefix)
    with bus.subscribe("own.*", timeout=PATIENCE) as own:
        bus.publish(f"own.{number}", event(f"m-{number}"))
        assert own.get(timeout=PATIENCE)
    bus.publish_many("n", [event(f"m-{number}", n) for n in range(100)])
    globals()["kept"] = bus  # or it would be collected, and not closed at exit


UNCLOSED = "unclosed <Connection"  #: what each child is told at its end


def processes(url: str, prefix: str, method: str) -> None:
    global bus_of_the_module
    os.environ["NATS_URL"] = url
    bus = bus_of_the_module = NATSEventBus(url, prefix=prefix)
    with bus.subscribe("n", maxsize=10_000) as events:
        context = multiprocessing.get_context(method)
        children = [context.Process(target=work_in_a_process, args=(prefix, number)) for number in range(3)]
        for child in children:
            child.start()
        for child in children:
            child.join(PATIENCE)
            assert child.exitcode == 0, child
        got = [events.get(timeout=PATIENCE) for _ in range(300)]
        assert len({(one.actor_id, one.version) for one in got}) == 300
        assert events.get_batch(1, timeout=0) == []
    assert bus.metrics().reconnects == 0
    assert bus.close(PATIENCE)


def a_shared_connection(url: str, prefix: str) -> None:
    connection = Connection(url)
    one, other = NATSEventBus(connection, prefix=prefix), NATSEventBus(connection, prefix=prefix)
    mine = one.subscribe("n")
    other.publish("n", event("parent"))
    assert mine.get(timeout=PATIENCE).actor_id == "parent"

    def child() -> None:
        refused(mine)
        with one.subscribe("n", timeout=PATIENCE) as own:
            other.publish("n", event("child"))
            assert own.get(timeout=PATIENCE).actor_id == "child"
        assert one.close(PATIENCE)
        assert other.close(PATIENCE)
        assert connection.close(PATIENCE)

    await_child(in_child(child))
    assert mine.get(timeout=PATIENCE).actor_id == "child"
    mine.close()
    assert connection.close(PATIENCE)


def a_store_on_a_server(url: str, prefix: str) -> None:
    """A store made and used before the fork is used on both sides after it; a follower stays the parent's."""
    store = JetStreamEventStore(url, prefix)
    store.append("a-1", event("a-1"), expected_version=0)
    follower = store.follow()
    assert follower.get(timeout=PATIENCE).sequence == 1

    def child() -> None:
        assert store.cached_version("a-1") is None
        assert store.metrics() == StoreMetrics(stream=prefix), "what the parent did counts there alone"
        with pytest.raises(ClosedError, match="before the fork"):
            follower.get(timeout=PATIENCE)
        store.append("a-1", event("a-1"), expected_version=1, timeout=PATIENCE)
        with store.follow(after=1) as own:
            assert own.get(timeout=PATIENCE).event.version == 2
        store.close()

    await_child(in_child(child))
    assert follower.get(timeout=PATIENCE).event.version == 2
    assert [one.version for one in store.get_events("a-1")] == [1, 2]
    assert store.metrics().calls["append"].calls == 1
    store.append("a-1", event("a-1"), expected_version=2)
    assert follower.get(timeout=PATIENCE).event.version == 3
    follower.close()
    store.close()


def open_as(number: int) -> str:
    """The name of what is open under a number."""
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except FileNotFoundError:
        return "nothing"


def own_files_after_a_fork(url: str, prefix: str, folder: str) -> None:
    """A daemon closes what it has inherited, and opens files of its own; forks of it leave these alone."""
    bus = NATSEventBus(url, prefix=prefix)
    bus.publish("n", event("parent"))
    bus.flush(PATIENCE)

    def daemon() -> None:
        highest = max(map(int, os.listdir("/proc/self/fd")))
        os.closerange(3, highest + 2)
        written = [open(f"{folder}/{n}", "w+") for n in range(highest)]  # noqa: SIM115
        names = [open_as(one.fileno()) for one in written]
        for one in written:
            one.write("what it has")

        def grandchild() -> None:
            gc.collect()
            now = [open_as(one.fileno()) for one in written]
            replaced = set(now) - set(names)
            if os.environ["AETHER_SYNC_UVLOOP"] == "1":  # libuv remembers its pipe; each fork closes it by its numbers
                replaced = {name for name in replaced if not name.startswith("pipe:")}
            assert not replaced
            for one in written:
                with contextlib.suppress(OSError):
                    one.flush()

        await_child(in_child(lambda: await_child(in_child(grandchild))))
        for one in written:
            one.close()

    await_child(in_child(daemon))
    assert bus.close(PATIENCE)


def own_files_at_the_end(url: str, prefix: str, folder: str) -> None:
    """A daemon as that one ends as a process usually does: what it has written is in its files."""
    bus = NATSEventBus(url, prefix=prefix)
    bus.publish("n", event("parent"))
    bus.flush(PATIENCE)
    pid = os.fork()
    if pid:
        await_child(pid)
        assert {os.path.getsize(f"{folder}/{n}") for n in range(20)} == {len("what it has")}
        assert bus.close(PATIENCE)
        return
    os.closerange(3, 100)
    globals()["kept"] = [open(f"{folder}/{n}", "w") for n in range(20)]  # noqa: SIM115
    for one in globals()["kept"]:
        one.write("what it has")
