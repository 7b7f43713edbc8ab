"""The watcher: a process between this library's and a nats-server, which ends the server when nobody wants it any more.

``python -I -S watcher.py PARENT DIRECTORY BINARY [ARGUMENT ...]`` starts the server as its child. It writes the pid of
the server to its standard output, in ten characters, and one more character when the server has ended. Then it stays
until it is killed, because it has to remove the directory in the end. It ends the server, removes the directory and
exits when the process PARENT is gone, however that ended; when nobody can read its standard output any more; or on
SIGTERM.

Only a process can do that. A thread does not survive a SIGKILL of the parent. PR_SET_PDEATHSIG fires when the *thread*
that started the server ends. A pipe is inherited by forked children, which would keep the server alive. The watcher
imports little, because the start of every server waits for it.
"""

import os
import select
import signal
import sys
import time

PID_LENGTH = 10  # characters
GRACE = 3.0  # seconds between SIGTERM and SIGKILL once the parent is gone
_LOOK = 100  # milliseconds between two looks for the parent, where the kernel has no pidfd (it came with Linux 5.3)
_PR_SET_PDEATHSIG = 1
#: Signals that the server handles itself. Python ignores one of them, nohup another, and the watcher handles two.
_DEFAULTS = (
    signal.SIGCHLD,
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGPIPE,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)


def main(parent: int, directory: str, command: list[str]) -> None:
    """Start the server, and see it and the parent to their ends."""
    wake = _signals_as_bytes()
    poll = select.poll()
    poll.register(wake, select.POLLIN)
    poll.register(1, 0)  # an error there means that the reader has gone, as it does when a start is interrupted
    parent_end = _pidfd(parent)
    if parent_end is not None:
        poll.register(parent_end, select.POLLIN)
    server = _start(command)
    running = True
    _report(b"%*d" % (PID_LENGTH, server))
    wanted = os.getppid() == parent  # after the pidfd was opened, which so cannot be that of a later process
    while wanted:
        ready = {fd for fd, _ in poll.poll(_LOOK if parent_end is None else None)}
        wanted = ready <= {wake} and os.getppid() == parent
        if wake in ready and signal.SIGTERM in os.read(wake, 64):
            wanted = False
        if running and _has_ended(server):
            running = False
            _report(b".")
    if running:
        _end(server, wake)
    import shutil  # slow to import, and needed only here

    shutil.rmtree(directory, ignore_errors=True)


def _signals_as_bytes() -> int:
    """Return a file from which SIGCHLD and SIGTERM are read as bytes, so that one just before a wait is not missed."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    return read


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid) if sys.platform == "linux" else None
    except OSError:
        return None


def _start(command: list[str]) -> int:
    libc, watcher = None, os.getpid()
    if sys.platform == "linux":
        try:
            import ctypes

            libc = ctypes.CDLL(None)
        except (ImportError, OSError):
            pass  # then a SIGKILL of the watcher itself leaves the server behind
    # While it is blocked, a SIGTERM waits for the server; the copy of our handler in the child would swallow it.
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGTERM})
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return pid
    try:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == watcher:
            for number in _DEFAULTS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.dup2(2, 1)
            os.execv(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def _report(news: bytes) -> None:
    try:
        os.write(1, news)
    except OSError:
        pass  # nobody reads it, which main() notices


def _has_ended(server: int) -> bool:
    return os.waitpid(server, os.WNOHANG)[0] == server


def _end(server: int, wake: int) -> None:
    """Ask the server to end, wait for it, and end it by force when its time is over."""
    os.kill(server, signal.SIGTERM)
    os.kill(server, signal.SIGCONT)  # it may be paused
    poll = select.poll()
    poll.register(wake, select.POLLIN)
    end = time.monotonic() + GRACE
    while not _has_ended(server):
        left = end - time.monotonic()
        if left <= 0:
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)
            return
        if poll.poll(left * 1000):
            os.read(wake, 64)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
