"""Green threads: what gevent and eventlet make of Python's, and how far that goes with this library.

gevent, before this library is imported: the loop thread is a greenlet like all others, on asyncio's own loop, which
waits as gevent does; uvloop's would hold up the whole process. asyncio knows one running loop for each thread of the
system, so there is one connection then. Patched later, locks that exist already are those of real threads, on which a
greenlet would wait without letting others run. eventlet is not supported.
"""

import sys
import threading

from ..errors import AetherError

__all__ = ["refuse_late_patching", "uses_gevent"]

_lock = threading.Lock  # as this library has it


def uses_gevent() -> bool:
    """Whether gevent has made threads, or sockets, its own."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and (monkey.is_module_patched("threading") or monkey.is_module_patched("socket"))


def refuse_late_patching() -> None:
    """Refuse to wait where that would hold up all green threads.

    Raises:
        AetherError: Threads were patched after this library was imported, or are eventlet's.
    """
    if threading.Lock is not _lock:
        raise AetherError(
            "threads were patched after aether_sync was imported, and would hang here: "
            "call gevent.monkey.patch_all() before any other import"
        )
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        raise AetherError("eventlet is not supported: use real threads, or gevent")
