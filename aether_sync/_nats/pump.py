"""The publish pump: batches from the outbox to the server, and the account of what became of them.

Positions count events in the order in which the outbox accepted them::

    0 ---- settled ---- written ---- accepted (outbox.position())
      confirmed      in flight    in the outbox,
      or uncertain                or in the pump's hands

Every write is followed by a PING, though never by a second one while the first is unanswered: its PONG confirms all
that was written before it. What is in flight when the connection breaks is uncertain, and is not sent again.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from .._queues import Batch, Outbox, OutboxClosed
from .._waiting import Reply
from .reasons import counted
from .reporter import Reporter
from .wire import Wire

__all__ = ["Account", "Pump"]

_SLICE = 64 * 1024  # bytes per write: what a socket takes at once, and little to be uncertain about


@dataclass(frozen=True, slots=True)
class Account:
    """What became of events, since an account was last told."""

    uncertain: int = 0
    rejected: int = 0
    reasons: tuple[str, ...] = ()
    until: tuple[int, int] = (0, 0)  # uncertain and rejected ever

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
    """Writes what the outbox holds whenever there is a wire to write to. Loop thread only."""

    def __init__(self, outbox: Outbox, reporter: Reporter) -> None:
        self._outbox = outbox
        self._reporter = reporter
        self._wire: Wire | None = None  # while connected
        self._max_payload = 0
        self._connected = asyncio.Event()
        self._written = 0
        self.settled = 0  # read by any thread
        self._pinged = False  # a PING is unanswered
        self._flushes: list[tuple[int, Reply[Account]]] = []  # (position, who waits for it)
        self._progress: asyncio.Future[None] | None = None  # for settle(): something was settled
        self._reasons: dict[str, int] = {}  # why events were rejected, and how many had been when it was last so
        self._told = (0, 0)  # how many uncertain and rejected events were told; written by any thread
        self._closed: Exception | None = None
        self.uncertain = 0  # ever
        self.rejected = 0  # ever

    # -- the connection comes and goes

    def resume(self, wire: Wire, max_payload: int) -> None:
        """Write to this wire from now on, no payload larger than ``max_payload`` bytes."""
        self._wire, self._max_payload = wire, max_payload
        self._pinged = False
        self._connected.set()

    def pause(self) -> None:
        """Hold what is not written; what was written and not confirmed is uncertain."""
        if self._wire is None:
            return
        self._wire = None
        self._connected.clear()
        lost = self._written - self.settled
        if lost:
            self.uncertain += lost
            self._reporter.warning(
                "the connection broke with %s unconfirmed, which may not have arrived", counted(lost)
            )
        self._settle(self._written)

    def reject(self, count: int, reason: str) -> None:
        """Note events that the server refused."""
        self.rejected += count
        if len(self._reasons) < 100 or reason in self._reasons:  # bounded, however many subjects are refused
            self._reasons[reason] = self.rejected
        self._reporter.burst(
            f"rejected: {reason}", "published, and refused by the server: %s, %s", counted(count), reason
        )

    # -- writing

    async def run(self) -> None:
        """Write batches until the outbox is closed and empty."""
        while True:
            await self._connected.wait()
            try:
                batch = await self._outbox.async_q.get()
            except OutboxClosed:
                return
            await self._send(batch)

    async def _send(self, batch: Batch) -> None:
        frames = batch.frames
        start = batch_bytes = 0
        while start < len(frames):
            while (wire := self._wire) is None:
                await self._connected.wait()
            end, size = _slice(frames, start)
            self._write(wire, frames[start:end], batch.largest)
            self._outbox.written(end - start, size)
            start, batch_bytes = end, batch_bytes + size
            with suppress(OSError):  # the link notices too, and pauses us
                await wire.drain()
            await asyncio.sleep(0)  # reading goes on between two slices
        self._outbox.written(0, batch.size - batch_bytes)  # an interrupted publisher counted more than it put

    def _write(self, wire: Wire, frames: list[bytes], largest: int) -> None:
        if largest > self._max_payload:  # another server than the one it was checked against
            kept = [frame for frame in frames if _payload_size(frame) <= self._max_payload]
            if len(kept) < len(frames):
                self.reject(len(frames) - len(kept), f"larger than the server's max_payload of {self._max_payload}")
        else:
            kept = frames
        wire.write(b"".join(kept))
        self._written += len(frames)
        if not self._pinged:
            self._ping(wire)

    # -- confirming

    def _ping(self, wire: Wire) -> None:
        self._pinged = True
        position = self._written
        wire.ping(lambda: self._confirm(wire, position))

    def _confirm(self, wire: Wire, position: int) -> None:
        if wire is not self._wire:
            return
        self._pinged = False
        self._settle(position)
        if self._written > position:
            self._ping(wire)

    def _settle(self, position: int) -> None:
        self.settled = max(self.settled, position)
        due = [reply for wanted, reply in self._flushes if wanted <= self.settled]
        self._flushes = [flush for flush in self._flushes if flush[0] > self.settled]
        for reply in due:
            reply.set(self.account())
        if self._progress is not None and not self._progress.done():
            self._progress.set_result(None)

    def flush(self, position: int, reply: Reply[Account]) -> None:
        """Answer with the account when everything up to a position is settled."""
        if self._closed is not None:
            reply.fail(self._closed)
            return
        self._flushes.append((position, reply))
        self._settle(self.settled)

    def forget(self, reply: Reply[Account]) -> None:
        """Nobody waits for this answer any more."""
        self._flushes = [flush for flush in self._flushes if flush[1] is not reply]

    async def settle(self, position: int) -> None:
        """Wait until everything up to a position is settled."""
        while self.settled < position:
            self._progress = asyncio.get_running_loop().create_future()
            await self._progress

    def close(self, error: Exception) -> None:
        """Write nothing more, and release everyone who waits for a flush, or will."""
        self._closed = error
        self.pause()
        self.release(error)

    def release(self, error: Exception) -> None:
        """Give everyone who waits for a flush an error."""
        for _, reply in self._flushes:
            reply.fail(error)
        self._flushes = []

    def account(self) -> Account:
        """Say what became of events since the last account that was told. It stays due until :meth:`tell`."""
        uncertain, rejected = self._told
        reasons = tuple(reason for reason, at in self._reasons.items() if at > rejected)
        until = (self.uncertain, self.rejected)
        return Account(self.uncertain - uncertain, self.rejected - rejected, reasons, until)

    def tell(self, account: Account) -> None:
        """An account has reached a caller. Any thread; several that waited for one flush tell the same.

        Accepted race: of two threads that tell different accounts at once, the older may win. Then what the newer had
        more is told once again, and never not at all.
        """
        self._told = max(self._told, account.until)


def _slice(frames: list[bytes], start: int) -> tuple[int, int]:
    """Find how far one write goes: the index behind its last frame, and its bytes."""
    size = 0
    for index in range(start, len(frames)):
        size += len(frames[index])
        if size >= _SLICE:
            return index + 1, size
    return len(frames), size


def _payload_size(frame: bytes) -> int:
    r"""Read the payload's size from a frame: ``PUB <subject> <size>\r\n<payload>\r\n``."""
    return int(frame[: frame.index(b"\r\n")].rpartition(b" ")[2])
