"""``AetherConfig``: the application, as Django starts it."""

from django.apps import AppConfig
from django.core import checks
from django.core.signals import setting_changed
from django.utils.module_loading import autodiscover_modules

from ._connections import close_all
from .checks import check_handlers, check_servers, check_settings

__all__ = ["AetherConfig"]


class AetherConfig(AppConfig):
    """``"aether_sync.contrib.django"`` in ``INSTALLED_APPS``."""

    name = "aether_sync.contrib.django"
    label = "aether_sync"
    verbose_name = "Events"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Import ``events.py`` of each application, where its handlers are, and register the checks."""
        checks.register(check_settings, "aether")
        checks.register(check_handlers, "aether")
        checks.register(check_servers, "aether", deploy=True)
        setting_changed.connect(_begin_anew, dispatch_uid="aether_sync")
        autodiscover_modules("events")


def _begin_anew(*, setting: str, **about: object) -> None:
    """Forget what was made by settings that a test has changed."""
    if setting == "AETHER":
        close_all()
