"""The shortcut past the loop: nothing torn, nothing twice, in order, accounted for; whoever else writes, or breaks."""

import asyncio
import errno
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, count

import pytest

from aether_sync import DeliveryUncertainError, DisconnectedError, Event, NATSEventBus, NATSServer
from aether_sync._nats import shortcut as room
from aether_sync._nats.shortcut import LARGEST_CARRIED, Shortcut

from ..support.common import PATIENCE, UNIT, eventually, first_of, make_event, run_threads
from ..support.inside import channel_of, client_of, link_of, outbox_of, transport_of
from ..support.proxy import Proxy
from ..support.recorder import Recorder, check_order
from ..support.signals import INTERRUPTS, before, hammer

MakeBus = Callable[..., NATSEventBus]


# -- one connection, without a server


class Transport:
    """As far as a shortcut knows one: it writes at once, unless it is slow."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""
        self.closing = self.slow = self.encrypted = False

    def get_extra_info(self, name: str) -> object:
        return {"socket": self.sock, "ssl_object": self.encrypted or None}[name]

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        self.buffer += data
        if not self.slow:
            self.drain()

    def drain(self) -> None:
        self.sock.setblocking(True)
        self.sock.sendall(self.buffer)
        self.sock.setblocking(False)
        self.buffer = b""


class Peer:
    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            here = socket.create_connection(listener.getsockname())
            self.there, _ = listener.accept()
        here.setblocking(False)
        self.there.settimeout(PATIENCE)
        self.transport = Transport(here)
        self.told = 0
        self.shortcut = self.make()

    def make(self) -> Shortcut:
        async def make() -> Shortcut:
            return Shortcut(self.transport, self.tell)  # type: ignore[arg-type]

        shortcut = asyncio.run(make())
        shortcut._loop = self  # type: ignore[assignment]
        return shortcut

    def tell(self) -> None:
        self.told += 1

    def call_soon_threadsafe(self, callback: Callable[[], object]) -> None:
        callback()

    call_soon = call_soon_threadsafe

    def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            data += self.there.recv(count - len(data))
        return data

    def close(self) -> None:
        self.shortcut.close()
        self.transport.sock.close()
        self.there.close()


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    monkeypatch.setattr(room, "_ALONE", 0.0)
    peer = Peer()
    yield peer
    peer.close()


def test_a_frame_goes_out_and_is_accounted_for_once(peer: Peer) -> None:
    assert peer.shortcut.carry(b"one")
    assert peer.shortcut.carry(b"three")
    assert peer.read(8) == b"onethree"
    assert peer.told == 2
    assert (peer.shortcut.account(), peer.shortcut.account()) == ([3, 5], [])


def test_the_loop_is_not_told_of_what_it_expects(peer: Peer) -> None:
    peer.shortcut.expected = True
    assert peer.shortcut.carry(b"one")
    assert (peer.told, peer.shortcut.account()) == (0, [3])


def test_events_that_come_close_together_go_the_other_way(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_ALONE", 0.01)
    assert peer.shortcut.carry(b"one")
    assert not peer.shortcut.carry(b"two")
    time.sleep(0.02)
    assert peer.shortcut.carry(b"three")


def _close(peer: Peer) -> None:
    peer.shortcut.close()


def _is_closing(peer: Peer) -> None:
    peer.transport.closing = True


def _has_more_to_send(peer: Peer) -> None:
    peer.transport.slow = True
    peer.shortcut.write(b"x")


def _encrypts(peer: Peer) -> None:
    peer.transport.encrypted = True
    peer.shortcut.close()
    peer.shortcut = peer.make()


def _is_broken(peer: Peer) -> None:
    peer.transport.sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("state", [_close, _is_closing, _has_more_to_send, _encrypts, _is_broken])
def test_what_is_in_its_way(peer: Peer, state: Callable[[Peer], None]) -> None:
    state(peer)
    assert not peer.shortcut.carry(b"one")
    assert peer.shortcut.account() == []


def test_what_is_not_small_goes_the_other_way(peer: Peer) -> None:
    assert not peer.shortcut.carry(b"x" * (LARGEST_CARRIED + 1))
    assert peer.shortcut.carry(b"x" * LARGEST_CARRIED)


def test_only_the_loop_finds_out_that_a_transport_has_no_more_to_send(peer: Peer) -> None:
    peer.transport.slow = True
    peer.shortcut.write(b"part")
    peer.transport.buffer = b""  # asyncio has the rest in its hands, and is about to put it back
    assert not peer.shortcut.carry(b"one")
    peer.transport.buffer = b"rt"
    peer.transport.drain()
    peer.shortcut.write(b"")
    assert peer.shortcut.carry(b"one")
    assert peer.read(5) == b"rtone"


def test_a_number_that_is_another_ones_by_now_is_not_written_to(peer: Peer) -> None:
    number = peer.transport.sock.fileno()
    peer.transport.sock.close()  # by asyncio, as the connection is reset
    one, other = socket.socketpair()
    with one, other:
        assert number in (one.fileno(), other.fileno())
        peer.shortcut.carry(b"one")
        for sock in (one, other):
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(1)


def test_a_handler_closes_right_before_the_system_call(peer: Peer) -> None:
    with before(Shortcut.carry, "_carried.extend", peer.shortcut.close):
        assert not peer.shortcut.carry(b"one")
    assert peer.shortcut.account() == []


def test_without_files_there_is_none(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> int:
        raise OSError(errno.EMFILE, "too many")

    peer.shortcut.close()
    monkeypatch.setattr(os, "dup", fail)
    peer.shortcut = peer.make()
    assert not peer.shortcut.carry(b"one")


def test_the_loop_has_to_look_after_some(peer: Peer) -> None:
    while peer.shortcut.carry(b"x"):
        assert len(peer.shortcut._carried) <= 64
    assert len(peer.shortcut.account()) == 64
    assert peer.shortcut.carry(b"x")


def test_the_rest_of_a_frame_comes_before_all_else(peer: Peer) -> None:
    peer.shortcut.expected = True
    frames = []
    while not peer.told:  # of a rest the loop is told at once
        if len(peer.shortcut._carried) == 64:
            peer.shortcut.account()
        frames.append(b"%07d" % len(frames) * 584)  # of a size that goes into no buffer without rest
        assert peer.shortcut.carry(frames[-1])
    whole = b"".join(frames) + b"PING\r\n"
    got = peer.read(len(whole) - len(b"PING\r\n") - len(peer.shortcut._rest()))
    assert not peer.shortcut.carry(b"x"), "there is room, but not for this"
    peer.shortcut.write(b"PING\r\n")
    assert got + peer.read(len(whole) - len(got)) == whole
    assert peer.shortcut.carry(b"x")
    assert peer.shortcut.account()[-2:] == [len(frames[-1]), 1]


def test_what_is_accounted_for_is_written_to_the_end(peer: Peer) -> None:
    sent = b""
    while not peer.shortcut._rest():
        peer.shortcut.account()
        sent += b"x" * 4_000
        assert peer.shortcut.carry(b"x" * 4_000)
    run_threads(peer.shortcut.account, lambda: peer.read(len(sent)))


def test_a_full_socket_takes_nothing(peer: Peer) -> None:
    with suppress(BlockingIOError):
        while True:
            peer.transport.sock.send(b"x" * 1_000)
    with suppress(BlockingIOError):
        while True:
            peer.transport.sock.send(b"x")
    assert not peer.shortcut.carry(b"one")
    assert peer.shortcut.account() == []


class Interrupted(Exception):
    pass


def _raise() -> None:
    raise Interrupted


def test_what_an_interrupted_publisher_has_written_is_accounted_for(peer: Peer) -> None:
    with pytest.raises(Interrupted), before(Shortcut.carry, "tell =", _raise):
        peer.shortcut.carry(b"one")
    assert peer.shortcut.carry(b"two")
    assert peer.read(6) == b"onetwo"
    assert peer.shortcut.account() == [3, 3]


def test_an_interrupted_publisher_has_written_all_of_a_frame_or_nothing(peer: Peer) -> None:
    numbers = count(1)
    got: list[bytes] = []
    frame = b"%07d" + b"x" * 2_000

    def read() -> None:
        while not (got and got[-1].endswith(b"end")):
            got.append(peer.there.recv(65_536))

    def carry() -> None:
        peer.shortcut.carry(frame % next(numbers))
        accounted.extend(peer.shortcut.account())

    accounted: list[int] = []
    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    hammer(INTERRUPTS, carry)
    accounted.extend(peer.shortcut.account())
    time.sleep(0.1)
    peer.shortcut.write(b"end")
    thread.join(PATIENCE)
    whole = b"".join(got)[:-3]
    assert len(whole) % 2_007 == 0
    frames = [whole[at : at + 2_007] for at in range(0, len(whole), 2_007)]
    assert all(one[7:] == b"x" * 2_000 for one in frames)
    assert [one[:7] for one in frames] == sorted({one[:7] for one in frames}), "twice, or out of order"
    assert len(accounted) <= len(frames), "accounted for without being sent"  # account() itself may be interrupted


def test_a_handler_that_publishes_in_the_middle_comes_behind(peer: Peer) -> None:
    with before(Shortcut.carry, "tell =", lambda: peer.shortcut.carry(b"two")):
        assert peer.shortcut.carry(b"one")
    assert peer.read(6) == b"onetwo"
    assert peer.shortcut.account() == [3, 3]


def test_a_handler_that_closes_in_the_middle_of_a_question_has_accounted_for_it(peer: Peer) -> None:
    with before(Shortcut.carry, "_carried.pop", peer.shortcut.account):
        assert peer.shortcut.carry(b"one", is_event=False)
    assert peer.read(3) == b"one"
    assert peer.shortcut.account() == []


def test_a_handler_publishes_right_before_the_system_call_and_the_socket_takes_a_part(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:3]))
    with before(Shortcut.carry, "_carried.extend", lambda: peer.shortcut.carry(b"handler's")):
        assert not peer.shortcut.carry(b"one")
    peer.shortcut.write(b"PING")
    assert peer.read(13) == b"handler'sPING"


# -- with a server


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that can takes the shortcut, however close together."""
    monkeypatch.setattr(room, "_ALONE", 0.0)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Count what took the shortcut."""
    took: list[int] = []
    account = Shortcut.account

    def note(self: Shortcut) -> list[int]:
        sizes = account(self)
        took.extend(sizes)
        return sizes

    with monkeypatch.context() as patch:
        patch.setattr(Shortcut, "account", note)
        yield took


def event(publisher: int, number: int) -> Event:
    return Event(event_type="Counted", actor_id=f"p-{publisher}", version=number)


@pytest.mark.concurrent
@pytest.mark.usefixtures("often")
@pytest.mark.both_loops
def test_both_ways_keep_the_order_of_each_thread(
    make_bus: MakeBus, server: NATSServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, each = 4, 2_000
    with counted(monkeypatch) as took, Recorder(server.port, prefix) as witness:
        bus = make_bus()
        bus.start()

        def publish(thread: int) -> None:
            for n in range(1, each + 1):
                if random.random() < 0.3:
                    time.sleep(random.uniform(0, 0.0005))
                bus.publish("n", event(thread, n))

        def subscribe() -> None:  # the loop writes, too
            for n in range(100):
                with bus.subscribe(f"n.{n}", timeout=PATIENCE):
                    pass

        run_threads(subscribe, *(lambda t=t: publish(t) for t in range(threads)))  # type: ignore[misc]
        bus.flush(PATIENCE)
        witness.finish()
        events = witness.events()
    check_order(events)
    assert len(events) == threads * each
    assert threads * each * 0.05 < len(took) < threads * each, "one way was hardly taken"
    metrics = bus.metrics()
    assert (metrics.published, metrics.confirmed) == (threads * each, threads * each)
    assert (metrics.reconnects, metrics.uncertain, metrics.rejected, metrics.outbox_events) == (0, 0, 0, 0)


def test_single_events_take_it(make_bus: MakeBus, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = make_bus()
    bus.start()
    with counted(monkeypatch) as took:
        for n in range(50):
            time.sleep(0.001)
            bus.publish("n", make_event(n))
        eventually(lambda: bus.metrics().confirmed == 50, "their confirmation, with nobody waiting for it")
    assert len(took) > 40
    bus.flush(PATIENCE)


def test_there_is_none_to_a_server_that_takes_less_than_it_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event was checked against the server that was there before; the loop checks it once more."""
    with (
        counted(monkeypatch) as took,
        NATSServer(config="max_payload: 1000") as strict,
        NATSEventBus(strict.url) as bus,
    ):
        bus.start()
        large = b"PUB aether.events.n 2000\r\n" + b"x" * 2_000 + b"\r\n"
        outbox_of(bus).put(large, None)
        with pytest.raises(DeliveryUncertainError) as caught:
            bus.flush(PATIENCE)
        assert (caught.value.rejected, caught.value.uncertain, took) == (1, 0, [])


@pytest.mark.usefixtures("often")
def test_a_flush_waits_for_what_took_it(make_bus: MakeBus) -> None:
    bus = make_bus()
    bus.start()
    for n in range(200):
        bus.publish("n", make_event(n))
        bus.flush(PATIENCE)
        assert bus.metrics().confirmed == n + 1


@pytest.mark.usefixtures("often")
def test_what_the_server_refuses_is_counted(server: NATSServer, prefix: str) -> None:
    config = 'authorization { users: [{user: u, password: p, permissions: {publish: ["t.events.yes", "_INBOX.>"]}}] }'
    with NATSServer(config=config) as strict, NATSEventBus(strict.url, user="u", password="p", prefix="t") as bus:
        bus.start()
        for n in range(100):
            bus.publish("no" if n % 3 == 0 else "yes", make_event(n))
            time.sleep(random.uniform(0, 0.002))
        with pytest.raises(DeliveryUncertainError) as caught:
            bus.flush(PATIENCE)
        assert (caught.value.rejected, caught.value.uncertain) == (34, 0)
        metrics = bus.metrics()
        assert (metrics.confirmed, metrics.rejected) == (66, 34)


@pytest.mark.fault
@pytest.mark.usefixtures("often")
@pytest.mark.both_loops
@pytest.mark.parametrize("fault", first_of(["cut", "stall", "kill"]))
def test_what_took_it_when_the_link_broke_is_uncertain_or_there(
    make_bus: MakeBus, own_server: NATSServer, prefix: str, fault: str
) -> None:
    total = 2_000
    with Proxy(own_server.port) as proxy, Recorder(own_server.port, prefix) as witness:
        bus = make_bus(proxy.url, ping_interval=UNIT)
        bus.start()
        for n in range(1, total + 1):
            bus.publish("n", event(0, n))
            if n % 10 == 0:
                time.sleep(0.0005)
            if n == total // 2:
                if fault == "kill":
                    own_server.kill()
                    own_server.restart()
                else:
                    getattr(proxy, fault)()
        time.sleep(0.2 * UNIT)
        proxy.restore()
        eventually(lambda: bus.metrics().reconnects + (fault == "stall") > 0, "another connection")
        with suppress(DeliveryUncertainError):
            bus.flush(PATIENCE)
        metrics = bus.metrics()
        witness.finish()
        events = witness.events()
    assert metrics.published == total == metrics.confirmed + metrics.uncertain
    check_order(events)
    if fault != "kill":  # that one takes the witness with it
        assert metrics.confirmed <= len(events) <= total


@pytest.mark.both_loops
def test_nobody_writes_to_a_file_that_comes_after_the_transports_own_end(make_bus: MakeBus) -> None:
    bus = make_bus()
    bus.start()
    transport = transport_of(bus)
    number = transport.get_extra_info("socket").fileno()
    others: list[socket.socket] = []

    def end() -> None:
        channel_of(bus).call_soon(transport.abort)  # as it does by itself when the connection is reset
        eventually(lambda: _is_closed(number), "the end of the socket")
        others.extend(chain.from_iterable(socket.socketpair() for _ in range(10)))

    with before(Shortcut.carry, "_carried.extend", end):
        bus.publish("n", make_event(1))
    assert number in [sock.fileno() for sock in others]
    for sock in others:
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
    for sock in others:
        sock.close()


def _is_closed(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return False


@pytest.mark.fault
@pytest.mark.usefixtures("often")
def test_a_server_that_does_not_read_gets_everything_in_order_later(
    make_bus: MakeBus, server: NATSServer, prefix: str
) -> None:
    total = 4_000
    with Proxy(server.port) as proxy, Recorder(server.port, prefix) as witness:
        bus = make_bus(proxy.url, ping_interval=60)
        bus.start()
        proxy.stall()
        fill = {"fill": "x" * 3_000}
        for n in range(1, total + 1):  # 13 MB: more than is let into flight
            bus.publish("n", Event(event_type="Counted", actor_id="p-0", version=n, data=fill))
            if n % 40 == 0:
                time.sleep(0.001)
        metrics = bus.metrics()
        assert metrics.outbox_events > total // 2
        assert (total - metrics.outbox_events) * 3_200 < 2.5 * 2**20, "more in flight than there may be"
        proxy.restore()
        bus.flush(PATIENCE)
        witness.finish()
        events = witness.events()
    check_order(events)
    assert len(events) == total
    assert (bus.metrics().confirmed, bus.metrics().reconnects) == (total, 0)


@pytest.mark.slow
@pytest.mark.usefixtures("often")
def test_interrupted_publishers_tear_nothing(make_bus: MakeBus, server: NATSServer, prefix: str) -> None:
    numbers = iter(range(1, 10_000_000))
    with Recorder(server.port, prefix) as witness:
        bus = make_bus()
        bus.start()

        def publish() -> None:
            bus.publish("n", event(0, next(numbers)))

        hammer(INTERRUPTS, publish)
        bus.flush(PATIENCE)
        bus.publish("n", event(1, 1))
        bus.flush(PATIENCE)
        witness.finish()
        events = witness.events()
    check_order(events)
    assert ("p-1", 1) in events
    metrics = bus.metrics()
    assert (metrics.reconnects, metrics.rejected, metrics.uncertain) == (0, 0, 0)
    assert metrics.published <= metrics.confirmed == len(events)


def test_a_handler_closes_in_the_middle(make_bus: MakeBus) -> None:
    bus = make_bus()
    bus.start()
    begun = time.monotonic()
    with before(Shortcut.carry, "tell =", lambda: bus.close(PATIENCE)):
        bus.publish("n", make_event(1))
    assert time.monotonic() - begun < PATIENCE / 2
    assert bus.closed


def test_a_fork_in_the_middle_leaves_the_parent_alone(make_bus: MakeBus) -> None:

    bus = make_bus()
    bus.start()
    pids: list[int] = []

    def fork() -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        pids.append(pid)

    with before(Shortcut.carry, "tell =", fork):
        bus.publish("n", make_event(1))
    os.waitpid(pids[0], 0)
    bus.flush(PATIENCE)
    assert (bus.metrics().confirmed, bus.metrics().reconnects) == (1, 0)


def test_nobody_writes_to_a_file_that_is_another_ones_by_now(make_bus: MakeBus, own_server: NATSServer) -> None:
    """While connections come and go, and others open files of the same numbers, no event gets into one of those."""
    bus = make_bus(own_server.url, on_disconnect="raise")
    bus.start()
    over = threading.Event()

    def publish() -> None:
        while not over.is_set():
            with suppress(DisconnectedError):
                bus.publish("n", make_event())
            time.sleep(0.0002)

    def open_and_look() -> None:
        for _ in range(3):
            eventually(lambda: bus.is_connected, "a connection")
            client = client_of(bus)
            channel_of(bus).call_soon(lambda client=client: client.abandon(OSError("by the test")))  # type: ignore[misc]
            pairs = [socket.socketpair() for _ in range(20)]
            time.sleep(0.02)
            for sock in chain.from_iterable(pairs):
                sock.setblocking(False)
                with pytest.raises(BlockingIOError):
                    sock.recv(1)
            for sock in chain.from_iterable(pairs):
                sock.close()

    def look() -> None:
        try:
            open_and_look()
        finally:
            over.set()

    run_threads(publish, look)


def test_the_pump_is_told_to_look_again_while_it_expects_nothing(make_bus: MakeBus) -> None:
    """What is carried between two looks of the loop is seen by the later one."""
    bus = make_bus()
    bus.start()
    pump = link_of(bus).pump
    for n in range(20):
        eventually(lambda n=n: pump.confirmed == n, "the confirmation")  # type: ignore[misc]
        eventually(lambda: pump._shortcut and not pump._shortcut.expected, "that nothing is expected")
        bus.publish("n", make_event(n))
    eventually(lambda: pump.confirmed == 20, "the confirmation")
