"""What the guide puts into ``gunicorn.conf.py``: iterations end when a worker is told to stop."""

import signal
from typing import Any

from aether_sync import end_iterations


def post_worker_init(worker: Any) -> None:
    """End them behind what gunicorn does at a SIGTERM."""
    stop = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *about: (stop(*about), end_iterations()))  # type: ignore[misc,operator]
