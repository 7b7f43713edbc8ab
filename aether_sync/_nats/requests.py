"""The questions of a connection to the server, and where their answers go. Any thread may ask.

One subscription, ``_INBOX.<random>.*``, takes all answers; the last token of the subject says which question it
answers. The thread that asks writes the question itself where that is possible, else the loop does. A question waits
for a connection if there is none. If the connection breaks, the questions that were sent fail: it is unknown then
whether the server has acted on them.
"""

import asyncio
import os
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable
from functools import partial
from itertools import count, groupby
from operator import itemgetter
from typing import NamedTuple

from .._runtime.locks import signal_safe_lock
from .._runtime.waits import Relay, Ticket
from ..errors import AetherError, DisconnectedError, InvalidNamespaceError, PermissionDeniedError
from .call import Call, Last, single
from .client import NATSClient
from .interest import Mailbox, Message
from .lines import Lines, line_of
from .outbox import Wakeup
from .shortcut import Shortcut

__all__ = ["Refused", "Requests", "Trial", "is_command"]

Refused = Callable[[str, AetherError], object]  #: hears of a refusal: the subject, and why

_TRIAL = b"_R_.aether."  # what begins so is a subject of the server's own, and no client's publish may have it as reply
# Subjects of what is written, beside events: those of a bus may begin with $JS, too.
_COMMANDS = ("$JS.API.", "$JS.ACK.", "$SYS.REQ.")
_ALONE = 2  # unanswered questions; if there are more, the loop writes several together
_STUCK = 0.02  # seconds in which a thread that was woken surely wakes the next one, unless something keeps it
_subject_of = itemgetter(0)


class Trial(NamedTuple):
    """A question whether this user may publish to a subject."""

    subject: str
    reply: bytes  # which the server refuses if the user may
    call: Call


class Requests:
    """The questions of a connection."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        # By the last token of their inboxes; any thread, by single operations. A thread may be interrupted before it
        # waits for its answer, and then cannot say that it never will: so a question is forgotten with its last
        # reference.
        self._calls: dict[bytes, weakref.ref[Call]] = {}
        # Who hears of refusals of what was written, with the key of its subject. Any thread, by single operations.
        self._on_refusal: dict[tuple[str, Refused], None] = {}
        self._trials: dict[bytes, Trial] = {}  # by reply, those that are not answered; only the loop looks at it
        self._numbers = count(1)
        self._unsent: deque[weakref.ref[Call]] = deque()
        self._outgoing: deque[weakref.ref[Call]] = deque()  # put there by any thread, taken by the loop
        self._answered = Relay()  # of calls that are over; added to by the loop
        self._call_later: Callable[..., object] | None = None  # of that loop
        self._is_watched = False  # whether :meth:`_watch` is to come again; only the loop looks at it
        self._wakeup: Wakeup | None = None  # for those, once there was a connection
        self._client: NATSClient | None = None  # while connected
        self._shortcut: Shortcut | None = None  # of that client
        self._closed: AetherError | None = None
        self._open_lock = signal_safe_lock()  # guards that a mailbox is subscribed once
        self._renew()

    def _renew(self) -> None:
        prefix = f"_INBOX.{os.urandom(12).hex()}."
        self._inbox = prefix.encode()
        self._around = line_of(self._inbox)
        self.mailbox = Mailbox(f"{prefix}*", self._take, ended=self._fail_all)

    # -- any thread

    def open(self, subscribe: Callable[[Mailbox], object]) -> Mailbox:
        """Return the mailbox for the answers, subscribed once: another one if the last was refused."""
        with self._open_lock:
            if self.mailbox.ended and self._closed is None:
                self._renew()
            mailbox = self.mailbox
            if not mailbox.entered:
                subscribe(mailbox)
                mailbox.entered = True
        return mailbox

    def new_call(self, subjects: Collection[str], make: Callable[[bytes], bytes], last: Last) -> Call:
        """Make a question.

        Args:
            subjects: The subjects that it is sent to.
            make: Makes the commands, from the inbox for the answers.
            last: Which answer is the last.

        Raises:
            InvalidNamespaceError: Its line would be longer than the server accepts.
        """
        token = b"%d" % next(self._numbers)
        longest = max(subjects, key=len, default="")
        line = self._around + len(token) + len(longest if longest.isascii() else longest.encode())
        if line not in self._lines.taken:
            self._lines.take(line)
        call = Call(subjects, make(self._inbox + token), last, token, self._calls, self._leave)
        self._calls[token] = weakref.ref(call, partial(self._calls.pop, token))
        return call

    def new_trial(self, subject: str) -> Trial:
        """Make a question whether this user may publish to a subject. Nobody gets the message, whatever the answer is.

        Its reply is a subject that the server keeps for itself. The server first looks whether the user may publish to
        the subject, and then refuses the reply (``processInboundClientMsg`` in ``client.go`` of nats-server): so it
        refuses one or the other, which answers the question, and passes nothing on.
        """
        reply = b""

        def make(inbox: bytes) -> bytes:
            nonlocal reply
            reply = _TRIAL + inbox[len(self._inbox) :]
            return b"PUB %b %b 0\r\n\r\n" % (subject.encode(), reply)

        call = self.new_call((subject,), make, single)
        return Trial(subject, reply, call)

    def _waiting(self) -> list[Call]:
        """Return the questions that somebody waits for."""
        return _those_that_live(list(self._calls.values()))

    def put(self, call: Call) -> bool:
        """Have a question written; returns False if the caller has to post :meth:`send`.

        A question that is alone is written on this thread. If many threads ask at once, the loop writes all questions
        of one turn together; while threads are woken, as their answers have come, the loop is left to sleep, since
        most of them ask again.
        """
        if self._wakeup is None:
            return False
        shortcut = self._shortcut
        call.is_nested = shortcut is not None and shortcut.is_mine()
        woken = self._answered.waiting
        if not woken and len(self._calls) <= _ALONE and self._carry(call):
            return True
        self._outgoing.append(weakref.ref(call))  # weak: if its thread is interrupted here, it is not sent
        if not woken:  # else one that takes the last thread off looks afterwards what is here
            self._ring()
        if self._closed is not None:  # the loop may have looked for the last time
            call.fail(self._closed)
        return True

    def _ring(self) -> None:
        """Have the loop write what was put here."""
        wakeup = self._wakeup  # only now: a flush meanwhile has put another one there, or has seen the calls
        if wakeup is not None and not wakeup.rung:
            wakeup.ring()

    def _leave(self, is_interrupted: bool) -> None:
        """Wake the next thread whose answers have come. Each thread that has waited calls this.

        Args:
            is_interrupted: Whether an exception ended its wait: then nobody knows whether it has woken one already.
        """
        answered = self._answered
        if is_interrupted:
            answered.wake_all()
        else:
            answered.pass_on()
        if self._outgoing and not answered.waiting:
            self._ring()

    def on_refusal(self, subject: str, refused: Refused) -> None:
        """Call ``refused`` when the server denies a command to ``subject``; see the channel."""
        self._on_refusal[subject, refused] = None

    def off_refusal(self, subject: str, refused: Refused) -> None:
        """Take it off again, if it is there."""
        self._on_refusal.pop((subject, refused), None)

    def _tell_refusal(self, subject: str, error: AetherError) -> bool:
        """Tell those that are concerned by a refusal; return whether there are any."""
        key = _key_of(subject)
        concerned = [refused for one, refused in list(self._on_refusal) if one == key]
        for refused in concerned:
            refused(subject, error)
        return bool(concerned)

    def _carry(self, call: Call) -> bool:
        shortcut = self._shortcut
        if shortcut is None or not call.claim():
            return False
        if shortcut.carry(call.frame, is_event=False):
            return True
        call.release()
        return False

    def write_at_once(self, frame: bytes) -> bool:
        """Write a command on this thread, if that is possible; returns False if :meth:`write` has to do it."""
        _, subject, reply = frame[: frame.index(b"\r\n")].decode().split(" ", 2)
        try:
            self._lines.take(line_of(subject, reply))
        except InvalidNamespaceError as error:
            self._tell_refusal(subject, error)
            return True
        shortcut = self._shortcut
        return shortcut is not None and shortcut.carry(frame, is_event=False)

    # -- the loop thread

    def resume(self, client: NATSClient) -> None:
        """Write to this client from now on, first the questions that have waited for one."""
        loop = asyncio.get_running_loop()
        self._client, self._shortcut, self._call_later = client, client.shortcut, loop.call_later
        self._wakeup = Wakeup(loop, self._flush)
        unsent, self._unsent = self._unsent, deque()
        for call in _those_that_live(unsent):
            self.send(call)

    def pause(self) -> None:
        """The connection is lost, and with it the answers to the questions that were sent."""
        self._client = self._shortcut = None
        self._trials.clear()
        error = DisconnectedError("the connection broke before the server had answered")
        for call in self._waiting():
            if call.was_sent:
                call.fail(error)

    def send(self, call: Call) -> None:
        """Write a question, or keep it until there is a connection."""
        if self._closed is not None:
            call.fail(self._closed)
        elif self._client is None:
            self._unsent.append(weakref.ref(call))
            if len(self._unsent) > 2 * len(self._calls):  # nobody waits for most of them any more
                living = _those_that_live(self._unsent)
                self._unsent = deque(weakref.ref(one) for one in living if one.is_waited_for)
        elif call.is_waited_for and call.claim():
            self._client.write(call.frame)

    def ping(self, call: Call) -> None:
        """Call :meth:`Call.pong` when the server has processed everything that was written before."""
        if self._client is not None:
            self._client.ping(call.pong)

    def begin_trial(self, trial: Trial) -> None:
        """Write a trial, which is not kept for another connection: another server may answer otherwise."""
        if self._client is None:
            trial.call.fail(self._closed or DisconnectedError("there is no connection to try it on"))
        elif trial.call.is_waited_for and trial.call.claim():
            self._trials[trial.reply] = trial
            self._client.write(trial.call.frame)

    def permit(self, reply: str) -> bool:
        """Handle that the server refuses a publish only for its reply; returns whether it was that of a trial."""
        trial = self._trials.pop(reply.encode(errors="surrogateescape"), None)
        if trial is None:
            return False
        self._take([(self._inbox + trial.reply[len(_TRIAL) :], b"", b"", b"")])
        return True

    def _refuse_trial(self, subject: str) -> bool:
        """Handle the refusal of the oldest trial of a subject: the server refuses each of them, in order."""
        for reply, trial in self._trials.items():
            if trial.subject == subject:
                del self._trials[reply]
                trial.call.fail(_denied(subject))
                return True
        return False

    def write(self, frame: bytes) -> None:
        """Write commands that nobody waits for, if there is a connection."""
        if self._client is not None:
            self._client.write(frame)

    def _flush(self) -> None:
        """Write the questions that were put here since the last time."""
        self._wakeup = Wakeup(asyncio.get_running_loop(), self._flush)  # first: later threads ring this one
        calls = _those_that_live([self._outgoing.popleft() for _ in range(len(self._outgoing))])
        if self._client is None:
            for call in calls:
                self.send(call)
        else:
            self._client.write(b"".join([call.frame for call in calls if call.is_waited_for and call.claim()]))

    def _take(self, messages: list[Message]) -> None:
        """Hand out answers, those to the same question together, and then wake the threads that wait for them."""
        calls, start, woken = self._calls, len(self._inbox), self._answered.waiting
        try:
            for subject, answers in groupby(messages, _subject_of):
                token = subject[start:]
                ref = calls.get(token)
                call = None if ref is None else ref()
                if call is not None and call.take(list(answers)):
                    calls.pop(token, None)
                    if call.is_parked:
                        woken.append(call.done)
        finally:
            self._answered.start()
            if self._outgoing and not woken:  # one was put here while they were not woken yet
                self._ring()
            if woken and not self._is_watched and self._call_later is not None:
                self._watch(None, self._call_later)

    def _watch(self, first: Ticket | None, call_later: Callable[..., object]) -> None:
        """Have no thread sleep on behind one that was woken, and is kept by a signal handler or a finalizer."""
        first = self._answered.watch(first)
        self._is_watched = first is not None
        if first is not None:
            call_later(_STUCK, self._watch, first, call_later)
        elif self._outgoing:
            self._ring()

    def refuse(self, subject: str) -> bool:
        """Handle that the server denies a publish to a subject; returns whether anybody heard of it."""
        if self._refuse_trial(subject):
            return True
        refused = [call for call in self._waiting() if subject in call.subjects]
        for call in refused:
            call.fail(_denied(subject))
        return self._tell_refusal(subject, _denied(subject)) or bool(refused)  # a question may be a word, too

    def _fail_all(self, error: AetherError) -> None:
        for call in self._waiting():
            call.fail(error)

    def close(self, error: AetherError) -> None:
        """Fail all questions, and those that are still to come. Any thread, once the loop has stopped."""
        self._closed = error
        self._client = self._shortcut = None
        self._fail_all(error)


def _those_that_live(refs: Iterable[weakref.ref[Call]]) -> list[Call]:
    """Return the questions that still exist."""
    return [call for ref in refs if (call := ref()) is not None]


def is_command(subject: str) -> bool:
    """Whether a subject is one of what is written here, and of no event of a bus."""
    return subject.startswith(_COMMANDS)


def _key_of(subject: str) -> str:
    """Return by what the refusals of a subject are registered: those of acknowledgements by their consumer.

    Each delivery is acknowledged to a subject of its own: ``$JS.ACK.<stream>.<consumer>.<5 numbers>``, or with a domain
    and an account before the stream, and perhaps a token behind (ADR-15).
    """
    if not subject.startswith("$JS.ACK."):
        return subject
    tokens = subject.split(".")
    first = 2 if len(tokens) == 9 else 4
    return ".".join(["$JS.ACK", *tokens[first : first + 2]])


def _denied(subject: str) -> PermissionDeniedError:
    return PermissionDeniedError(f"the server permits no publish to {subject!r}: its user lacks that right")
