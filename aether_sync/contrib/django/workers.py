"""The workers of a project, by their aliases: ``aether-sync run aether_sync.contrib.django.workers:default``.

``manage.py aether_worker`` runs that. Each is made when it is asked for, of what the modules ``events`` declare.
"""

import django
from django.apps import apps

from ...worker.worker import Worker
from .registry import build_worker

__all__: list[str] = []


def __getattr__(name: str) -> Worker:
    if name.startswith("__"):
        raise AttributeError(name)
    if not apps.ready:
        django.setup()
    return build_worker(name)
