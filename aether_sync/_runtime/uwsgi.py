"""uWSGI: forks in C, of which Python hears only with ``py-call-uwsgi-fork-hooks``.

Without that option, code that ``os.register_at_fork()`` was given does not run, but a hook of uWSGI's own does, in each
worker. A thread that runs at the moment of such a fork may leave a lock of the interpreter's in the child, which then
stands still: so threads are refused in the process that forks.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType

from ..errors import AetherError

__all__ = ["call_in_workers", "refuse_before_its_fork"]

_TELL_PYTHON = ("py-call-uwsgi-fork-hooks", "py-call-osafterfork")


def _uwsgi() -> ModuleType | None:
    """Return the module by which programs talk to uWSGI; None if it does not run this process."""
    return sys.modules.get("uwsgi")  # it is built in there, and nowhere else


def call_in_workers(begin_anew: Callable[[], object]) -> None:
    """Have uWSGI call a function in each of its workers after the fork."""
    uwsgi = _uwsgi()
    if uwsgi is None:
        return
    try:
        decorators = import_module("uwsgidecorators")  # it takes the hook for itself, also if it is imported later
        decorators.postfork(begin_anew)
    except Exception:  # it is not installed, or refuses a server without a master process
        _chain(uwsgi, begin_anew)


def _chain(uwsgi: ModuleType, begin_anew: Callable[[], object]) -> None:
    before: Callable[[], object] | None = getattr(uwsgi, "post_fork_hook", None)

    def hook() -> None:
        begin_anew()
        if before is not None:
            before()

    uwsgi.post_fork_hook = hook  # type: ignore[attr-defined]


def refuse_before_its_fork() -> None:
    """Refuse to start a thread in uWSGI's master process, unless it tells Python of its forks.

    Raises:
        AetherError: The thread might freeze the workers.
    """
    uwsgi = _uwsgi()
    if uwsgi is None or uwsgi.masterpid() != os.getpid() or any(uwsgi.opt.get(option) for option in _TELL_PYTHON):
        return
    raise AetherError(
        "this is the process of uWSGI that forks the workers, and a thread that runs meanwhile may freeze them: set "
        "py-call-uwsgi-fork-hooks = true, or lazy-apps = true, or use a bus and a store in the workers only"
    )
