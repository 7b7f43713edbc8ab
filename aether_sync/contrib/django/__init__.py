"""At home in Django: the setting ``AETHER``, handlers in ``events.py``, the outbox, commands and the admin.

Put ``"aether_sync.contrib.django"`` into ``INSTALLED_APPS``. Needs the extra ``django``: Django 5.2 or later.
"""

from .._extra import extra

with extra(__name__, "django", "Django"):
    import django

from . import outbox
from ._commits import publish_on_commit
from ._connections import bus, get_bus, get_store, store
from ._database import Django
from ._sse import sse
from .registry import every, get_projection, handler, on, projection

__all__ = [
    "Django",
    "bus",
    "every",
    "get_bus",
    "get_projection",
    "get_store",
    "handler",
    "on",
    "outbox",
    "projection",
    "publish_on_commit",
    "sse",
    "store",
]

if django.VERSION < (5, 2):
    raise ImportError(f"aether_sync.contrib.django needs Django 5.2 or later, and this is {django.__version__}")
