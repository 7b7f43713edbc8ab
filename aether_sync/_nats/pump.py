"""The publish pump: batches from the outbox to the server, and the account of what became of them.

Positions count events in the order in which the outbox accepted them::

    0 ---- settled ---- written ---- accepted (outbox.position())
      confirmed      in flight    in the outbox,
      or uncertain                or in the pump's hands

Every write is followed by a PING, but never by a second one while the first is unanswered. The PONG confirms
everything that was written before its PING and not refused. The PING follows at once if somebody waits for that, else a
bit later, so that no event waits for the PONG of the event before.

What is in flight when the connection breaks is uncertain, and is not sent again. To keep it little, and PONGs quick,
nothing more is written while as much is in flight as the link has shown that it carries in a while. At any moment::

    settled == confirmed + uncertain + those of rejected that are not in flight any more
"""

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from math import inf

from .._runtime.listeners import Listeners
from .._runtime.reporter import Kind, Reporter
from .._runtime.waits import Reply
from .._values.clock import monotonic
from .client import NATSClient
from .lines import TOO_LONG, Lines, line_of
from .outbox import Outbox
from .reasons import counted
from .refusals import Refusals
from .shortcut import LARGEST_CARRIED, Shortcut
from .uplink import Window

__all__ = ["Account", "Pump"]

_PING_AFTER = 0.005  # seconds: little to be uncertain about, and several round trips
_REASONS_KEPT = 100  # however many subjects are refused


@dataclass(frozen=True, slots=True)
class Account:
    """What became of events since the last account that was reported."""

    uncertain: int = 0
    rejected: int = 0
    reasons: tuple[str, ...] = ()
    until: tuple[int, int] = (0, 0)  # how many were uncertain and rejected ever

    def __bool__(self) -> bool:
        return bool(self.uncertain or self.rejected)

    def __str__(self) -> str:
        parts = []
        if self.uncertain:
            parts.append(
                f"{counted(self.uncertain)} may not have arrived: the connection broke before the server confirmed them"
            )
        if self.rejected:
            parts.append(f"{counted(self.rejected)} refused: {'; '.join(self.reasons)}")
        return "; ".join(parts)


class Pump:
    """Writes what the outbox holds whenever there is a connection. Loop thread only.

    Args:
        outbox: Where events wait.
        reporter: Logs.
        listeners: Are told what is uncertain.
        lines: How long a line the server accepts.
        pong_within: Seconds in which the link should carry what is in flight.
    """

    def __init__(
        self, outbox: Outbox, reporter: Reporter, listeners: Listeners, lines: Lines, pong_within: float
    ) -> None:
        self._outbox = outbox
        self._lines = lines
        self._reporter = reporter
        self._listeners = listeners
        self._client: NATSClient | None = None  # while connected
        self._max_payload = 0
        self._may_write = asyncio.Event()
        self._written = 0
        self._in_flight = 0  # bytes
        self._window = Window(pong_within)  # bounds those bytes
        self._refused: Counter[int] = Counter()  # rejected events that are in flight, by their last possible position
        self._pinged: tuple[int, int] | None = None  # position and bytes before the PING that is unanswered
        self._pinged_at = 0.0  # when that PING was written
        self._shortcut: Shortcut | None = None  # of that client
        self._timer: asyncio.TimerHandle | None = None  # of the next PING
        self._flushes: list[tuple[int, Reply[Account]]] = []  # a position, and the reply that waits for it
        self._settling = 0  # how many tasks wait in settle()
        self._progress = asyncio.Event()  # something was settled
        self.refusals = Refusals()
        self._reasons: dict[str, int] = {}  # why events were rejected, and how many were when it last happened
        self._reported = (0, 0)  # how many uncertain and rejected events were reported; written by any thread
        self._closed: Exception | None = None
        # Events ever; read by any thread.
        self.settled = 0
        self.confirmed = 0
        self.uncertain = 0
        self.rejected = 0

    # -- the connection comes and goes

    def resume(self, client: NATSClient) -> None:
        """Write to this client from now on."""
        self._client = client
        self._pinged, self._in_flight = None, 0
        self._window.begin()
        self._shortcut = client.open_shortcut(self._catch_up)
        self._may_write.set()
        self._catch_up()

    def limit(self, max_payload: int) -> None:
        """Write no payload larger than this many bytes."""
        self._max_payload = max_payload
        self._catch_up()

    def hold(self) -> None:
        """Write nothing more to this client; what was written may still be confirmed."""
        self._may_write.clear()
        self._outbox.shortcut = None
        if self._shortcut is not None:
            self._shortcut.close()
            self._count_carried()

    def pause(self) -> None:
        """Keep what is not written; what was written and not confirmed is uncertain now."""
        self.hold()
        if self._client is None:
            return
        self._client = self._shortcut = None
        lost = self._settle(self._written)
        if lost:
            self.uncertain += lost
            said = "the connection broke with %s unconfirmed, which may not have arrived", counted(lost)
            self._reporter.warning(Kind.UNCERTAIN, *said, counts={"uncertain": lost})
            reason = "the connection broke before the server confirmed them"
            self._listeners.tell("uncertain", reason=reason, counts={"uncertain": lost})
        self._answer()

    def refuse(self, subject: str) -> None:
        """Note that the server refused an event of a subject, which was written before the unanswered PING."""
        reason = f"no permission to publish to {subject!r}"
        self._count_carried()
        position = self._written if self._pinged is None else self._pinged[0]
        if position - self.settled > sum(count for at, count in self._refused.items() if at <= position):
            self._reject(position, 1, reason, subject)
        else:
            said = "the server refused what was no event of ours: %s", reason
            self._reporter.burst(Kind.SERVER_ERROR, *said, about="a refusal")

    def _reject(self, position: int, count: int, reason: str, subject: str | None = None) -> None:
        self._refused[position] += count
        self.rejected += count
        self.refusals.note(subject, self.rejected)
        if len(self._reasons) >= _REASONS_KEPT and reason not in self._reasons:
            self._reasons = {one: at for one, at in self._reasons.items() if at > self._reported[1]}
        if len(self._reasons) < _REASONS_KEPT or reason in self._reasons:
            self._reasons[reason] = self.rejected
        said = "published, and refused by the server: %s, %s", counted(count), reason
        self._reporter.burst(Kind.REJECTED, *said, about=reason, counts={"rejected": count})

    # -- writing

    async def run(self) -> None:
        """Write whatever comes into the outbox, until this task is cancelled."""
        while True:
            await self._may_write.wait()
            frames, ends = self._outbox.take()
            if frames:
                await self._send(frames, ends)
            else:
                await self._outbox.wait(self._write_at_once)

    def _write_at_once(self) -> bool:
        """Write what is in the outbox, if it is little and can go out at once; returns whether it did."""
        client = self._client
        if client is None or not (self._may_write.is_set() and client.is_idle):
            return False
        if self._has_much_in_flight or self._outbox.waiting_bytes > self._window.slice:
            return False
        frames, ends = self._outbox.take()
        if frames:
            self._write(client, frames)
            self._outbox.written(len(frames), ends[-1])
        return True

    async def _send(self, frames: list[bytes], ends: list[int]) -> None:
        start = begin = 0
        while start < len(frames):
            client = await self._writable()
            end = min(bisect_left(ends, begin + self._window.slice, start) + 1, len(frames))
            self._write(client, frames[start:end])
            self._outbox.written(end - start, ends[end - 1] - begin)
            start, begin = end, ends[end - 1]
            with suppress(OSError):  # which the link notices as well
                await client.writable()
            await asyncio.sleep(0)  # so that the loop reads between two slices

    @property
    def _has_much_in_flight(self) -> bool:
        """Whether another slice would be too much in flight."""
        return self._in_flight > self._window.size - self._window.slice

    async def _writable(self) -> NATSClient:
        """Wait for a client that may be written to."""
        while True:
            await self._may_write.wait()
            client = self._client
            if client is None or not client.is_open:
                self.pause()  # before the link notices it: what is not written yet is not lost
            elif self._has_much_in_flight:
                await self._change()
            else:
                return client

    def _write(self, client: NATSClient, frames: list[bytes]) -> None:
        self._written += len(frames)
        data = b"".join(frames)
        # All of them were checked, but perhaps against another server.
        if len(data) > self._max_payload or self._lines.too_long < inf:
            data = b"".join(self._short_enough(self._small_enough(frames)))
        self._in_flight += len(data)
        client.write(data)
        self._catch_up()

    def _small_enough(self, frames: list[bytes]) -> list[bytes]:
        if max(map(len, frames)) <= self._max_payload:
            return frames
        kept = [frame for frame in frames if _payload_size(frame) <= self._max_payload]
        if len(kept) < len(frames):
            reason = f"larger than the server's max_payload of {self._max_payload}"
            self._reject(self._written, len(frames) - len(kept), reason)
        return kept

    def _short_enough(self, frames: list[bytes]) -> list[bytes]:
        if self._lines.too_long == inf:
            return frames
        kept = [frame for frame in frames if line_of(_subject(frame)) < self._lines.too_long]
        if len(kept) < len(frames):
            self._reject(self._written, len(frames) - len(kept), f"its subject is too long for the server: {TOO_LONG}")
        return kept

    # -- confirming

    def _count_carried(self) -> None:
        """Count events that took the shortcut as accepted, written and in flight."""
        sizes = [] if self._shortcut is None else self._shortcut.account()
        self._outbox.carried(len(sizes))
        self._written += len(sizes)
        self._in_flight += sum(sizes)

    def _catch_up(self) -> None:
        """Count what took the shortcut and have a PING follow it; open the shortcut if little is in flight."""
        shortcut = self._shortcut
        if shortcut is not None:
            shortcut.expected = False  # first: a thread that writes after this has the loop look again
        self._count_carried()
        self._ping_in_time()
        if shortcut is not None:
            shortcut.expected = self._pinged is not None or self._timer is not None
            is_open = self._may_write.is_set() and self._in_flight < self._window.size // 2
            takes_all = self._max_payload >= LARGEST_CARRIED  # also frames that were checked against another server
            self._outbox.shortcut = shortcut.carry if is_open and takes_all else None

    def _ping_in_time(self) -> None:
        """Have a PING follow what was written: at once if somebody waits for it, else a bit later."""
        if self._client is None or self._pinged is not None or self._written == self.settled:
            return
        if self._flushes or self._settling or self._in_flight * 2 > self._window.size:
            self._ping()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PING_AFTER, self._ping)

    def _ping(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        client, shortcut = self._client, self._shortcut
        if client is None or self._pinged is not None:
            return
        with nullcontext() if shortcut is None else shortcut.lock:  # nothing is written between the count and the PING
            self._count_carried()
            self._pinged, self._pinged_at = (self._written, self._in_flight), monotonic()
            client.ping(lambda: self._confirm(client))

    def _confirm(self, client: NATSClient) -> None:
        """Handle the PONG. Called by the parser, so it must not raise."""
        if client is not self._client or self._pinged is None:
            return
        position, size = self._pinged
        self._pinged = None
        self._in_flight -= size
        self._window.confirmed(size, monotonic() - self._pinged_at)
        self.confirmed += self._settle(position)
        self._answer()
        self._catch_up()

    def _settle(self, position: int) -> int:
        """Note that nothing before a position is in flight any more; returns how many of those were not refused."""
        count = position - self.settled
        for at in [at for at in self._refused if at <= position]:
            count -= self._refused.pop(at)
        self.settled = position
        return count

    def _answer(self) -> None:
        """Answer the flushes whose position is settled now."""
        due = [reply for wanted, reply in self._flushes if wanted <= self.settled]
        self._flushes = [flush for flush in self._flushes if flush[0] > self.settled]
        for reply in due:
            reply.set(self.account())
        self._progress.set()

    def flush(self, reply: Reply[Account]) -> None:
        """Set the reply to the account once everything that was accepted so far is settled."""
        if self._closed is not None:
            reply.fail(self._closed)
            return
        self._outbox.wake()
        self._count_carried()
        self._flushes.append((self._outbox.position(), reply))
        self._answer()
        self._catch_up()

    def forget(self, reply: Reply[Account]) -> None:
        """Drop the reply of a flush that nobody waits for any more."""
        self._flushes = [flush for flush in self._flushes if flush[1] is not reply]

    async def settle(self) -> None:
        """Wait until everything written so far is settled."""
        self._count_carried()
        position = self._written
        await self._until(lambda: self.settled >= position)

    async def drain(self) -> None:
        """Wait until everything is settled that the outbox, which is closed, has accepted.

        A publisher that had passed the gate when it was closed may still put frames in. Once this returns, the caller
        closes the pump without giving the loop a turn: then such a publisher takes its frames back.
        """
        await self._until(self._is_drained)

    def _is_drained(self) -> bool:
        self._outbox.shortcut = None
        if self._shortcut is not None:
            self._shortcut.close()  # nothing comes past the look below
            self._count_carried()
        return self.settled >= self._outbox.position()

    async def _until(self, condition: Callable[[], bool]) -> None:
        self._settling += 1
        self._catch_up()
        try:
            while not condition():
                await self._change()
        finally:
            self._settling -= 1

    async def _change(self) -> None:
        self._progress.clear()
        await self._progress.wait()

    def close(self, error: Exception) -> None:
        """Write nothing more, and fail all flushes, those that are still to come included."""
        self._closed = error
        self._outbox.seal()
        self.pause()
        self.release(error)

    def release(self, error: Exception) -> None:
        """Fail all flushes that wait."""
        for _, reply in self._flushes:
            reply.fail(error)
        self._flushes = []

    def account(self) -> Account:
        """Return what became of events since the last account that was passed to :meth:`mark_reported`."""
        uncertain, rejected = self._reported
        reasons = tuple(reason for reason, at in self._reasons.copy().items() if at > rejected)
        until = (self.uncertain, self.rejected)
        return Account(self.uncertain - uncertain, self.rejected - rejected, reasons, until)

    def mark_reported(self, account: Account) -> None:
        """Note that a caller has got an account. Any thread; several flushes may report the same one.

        Accepted race: if two threads report different accounts at once, the older one may win. Then what only the newer
        one had is reported once more, which is better than never.
        """
        self._reported = max(self._reported, account.until)


def _subject(frame: bytes) -> bytes:
    return frame[4 : frame.index(b" ", 4)]


def _payload_size(frame: bytes) -> int:
    r"""Read the payload's size from a frame: ``PUB <subject> <size>\r\n<payload>\r\n``."""
    return int(frame[: frame.index(b"\r\n")].rpartition(b" ")[2])
