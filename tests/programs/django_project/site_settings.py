"""The settings of a project for tests. What differs between them comes from the environment."""

import os
from pathlib import Path

_FOLDER = Path(os.environ["SHOP_FOLDER"])

SECRET_KEY = "not a secret"
DEBUG = os.environ.get("SHOP_DEBUG") == "1"
ALLOWED_HOSTS = ["*"]
USE_TZ = True
ROOT_URLCONF = "urls"
WSGI_APPLICATION = "wsgi.application"
STATIC_URL = "/static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "aether_sync.contrib.django",
    "shop",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]


def _sqlite(name):
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": _FOLDER / f"{name}.sqlite3",
        "OPTIONS": {"init_command": "PRAGMA journal_mode=WAL", "transaction_mode": "IMMEDIATE", "timeout": 20},
    }


def _postgres(name):
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "HOST": "127.0.0.1",
        "PORT": os.environ["SHOP_POSTGRES"],
        "USER": "postgres",
    }


_make = _postgres if os.environ.get("SHOP_POSTGRES") else _sqlite
DATABASES = {name: _make(os.environ.get("SHOP_DATABASE", "shop") + f"_{name}") for name in ("default", "other")}

AETHER = {
    "default": {
        "URL": os.environ.get("SHOP_NATS", "nats://127.0.0.1:1"),
        "STREAM": os.environ.get("SHOP_STREAM", "shop"),
        "PREFIX": os.environ.get("SHOP_STREAM", "shop") + "-bus",
    }
}
