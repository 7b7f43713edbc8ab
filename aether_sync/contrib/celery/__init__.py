"""A bus and a store for the tasks of a Celery application. Needs the extra ``celery``."""

from .._extra import extra

with extra(__name__, "celery", "Celery"):
    import celery  # noqa: F401

from ._aether import RETRYABLE, Aether

__all__ = ["RETRYABLE", "Aether"]
