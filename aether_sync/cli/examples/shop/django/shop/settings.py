"""The settings. There are no users yet: with them come sessions, and the middleware for CSRF."""

from pathlib import Path

HERE = Path(__file__).resolve().parents[1]

SECRET_KEY = "change me"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "shop.urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["aether_sync.contrib.django", "shop"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": HERE / "shop.db",
        "OPTIONS": {"init_command": "PRAGMA journal_mode=WAL", "transaction_mode": "IMMEDIATE"},
    }
}
AETHER = {"default": {"STREAM": "shop", "TYPES": "shop.orders.types"}}
