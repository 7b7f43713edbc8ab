"""A command and its shell: messages, the exit status, signals."""

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from types import FrameType
from typing import Any, BinaryIO

import click

from .._runtime.standard_files import fill_standard_files
from ..errors import AetherError, InvalidNamespaceError, InvalidOptionError

__all__ = [
    "Commands",
    "Failure",
    "Signals",
    "WrongUsageError",
    "errors_told",
    "forget_stdout",
    "open_standard_streams",
    "say",
]

_BROKEN_PIPE = 128 + signal.SIGPIPE


def open_standard_streams() -> None:
    """Have a command read nothing from an input that is closed, and write to nowhere what goes to a closed output.

    Characters that the encoding of the output does not have are replaced.
    """
    fill_standard_files()
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  # for as long as the process lasts
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")


def say(message: str) -> None:
    """Print a message on the standard error."""
    click.echo(f"aether-sync: {message}", err=True)


class Failure(click.ClickException):
    """Ends the command with a message and exit status 1."""

    def show(self, file: Any = None) -> None:
        say(self.message)


class WrongUsageError(Failure):
    """Ends the command with a message and exit status 2."""

    exit_code = 2


class Commands(click.Group):
    """Turns the errors of a command into a message and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        with errors_told(ctx):
            return super().invoke(ctx)


@contextmanager
def errors_told(ctx: click.Context) -> Iterator[None]:
    """Turn the errors of a command into a message and an exit status."""
    try:
        yield
    except (InvalidNamespaceError, InvalidOptionError) as error:
        raise WrongUsageError(str(error)) from error
    except AetherError as error:
        raise Failure(str(error)) from error
    except BrokenPipeError:
        forget_stdout()
        ctx.exit(_BROKEN_PIPE)
    except OSError as error:
        forget_stdout()
        raise Failure(str(error)) from error


def forget_stdout() -> None:
    """Discard what is still buffered: to write it at exit would fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class Signals:
    """Ends the program by ``SystemExit`` at SIGINT, SIGTERM and SIGHUP, but not in the middle of :meth:`whole`."""

    def __init__(self) -> None:
        self._whole = False
        self._waiting = 0
        self._came, wake = os.pipe()
        for end in (self._came, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)  # as the parent may have left them blocked
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and os.isatty(2):
            os.write(2, b"\r  \r")  # over the ^C that the terminal shows
        if self._whole and not self._waiting:
            self._waiting = number
        else:
            sys.exit(128 + number)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Finish the block before the first signal takes effect; if the block raises, its exception wins."""
        self._whole = True
        try:
            yield
        finally:
            self._whole = False
        if self._waiting:
            sys.exit(128 + self._waiting)

    def leave_interrupts_to_a_pager(self) -> None:
        """Let Ctrl-C do nothing to this process from now on: a pager gets it too, and may only stop a search for it."""
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, lambda *_: None)

    def await_input(self, file: BinaryIO) -> None:
        """Wait until a file can be read. Unlike a read, a signal also ends it if it came just before the wait."""
        select.select([file.fileno(), self._came], [], [])
