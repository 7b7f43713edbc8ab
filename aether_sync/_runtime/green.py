"""Green threads: how far this library works with gevent, and that it does not with eventlet.

If gevent patches before this library is imported, the loop thread is a greenlet like all others. It uses asyncio's own
loop, which then waits as gevent does; uvloop would block the whole process. asyncio allows one running loop for each
real thread, so there can be one connection. If gevent patches later, the locks that exist already are those of real
threads, and a greenlet that waits for one blocks all others. eventlet is not supported.
"""

import sys
import threading

from ..errors import AetherError

__all__ = ["refuse_late_patching", "uses_gevent"]

_lock = threading.Lock  # the one that this library uses


def uses_gevent() -> bool:
    """Whether gevent has patched threads or sockets."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and (monkey.is_module_patched("threading") or monkey.is_module_patched("socket"))


def refuse_late_patching() -> None:
    """Refuse to wait where that would block all green threads.

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
