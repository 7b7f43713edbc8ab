"""What gunicorn's workers need for responses that wait for events.

It is one line in ``gunicorn.conf.py``: ``from aether_sync.contrib.gunicorn import post_worker_init``. With the worker
``gevent``, ``gevent.monkey.patch_all()`` is called before it.
"""

import signal
from collections.abc import Iterable
from typing import Any

from .._runtime.exit import end_iterations
from .sse import end_at_stop
from .sse._connection import current_socket

__all__ = ["post_worker_init"]


def post_worker_init(worker: Any) -> None:
    """Let responses that wait for events end as soon as the worker is told to stop. gunicorn calls this in each worker.

    A worker that is told to stop, by SIGTERM or for a reload, or that has answered ``max_requests``, first waits for
    its responses, for ``graceful_timeout`` at most. With this they end at once: server-sent events, and all iterations
    over subscriptions, followers and consumers; see :func:`end_iterations`. Browsers connect again, to another worker.

    If you have a ``post_worker_init`` of your own, call this one there.
    """
    end_at_stop(signal.SIGTERM)
    application = worker.wsgi

    def with_socket(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        current_socket.set(environ.get("gunicorn.socket"))
        if not worker.alive:  # this is the last request of max_requests
            end_iterations()
        answer: Iterable[bytes] = application(environ, start_response)
        return answer

    worker.wsgi = with_socket
