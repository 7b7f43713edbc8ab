"""A bus and a store for the tasks of a Celery application. Needs the extra ``celery``."""

try:
    import celery  # noqa: F401  # here, so that it is said in one sentence what is missing
except ModuleNotFoundError as missing:
    if missing.name != "celery":
        raise
    raise ModuleNotFoundError(
        "aether_sync.contrib.celery needs Celery: install the extra 'celery' of aether-sync", name=missing.name
    ) from missing

from ._aether import RETRYABLE, Aether

__all__ = ["RETRYABLE", "Aether"]
