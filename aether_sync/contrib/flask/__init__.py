"""``Aether``: the bus and the store of a Flask application. Needs the extra ``flask``."""

try:
    import flask  # noqa: F401  # here, so that it is said in one sentence what is missing
except ModuleNotFoundError as missing:
    if missing.name != "flask":
        raise
    raise ModuleNotFoundError(
        "aether_sync.contrib.flask needs Flask: install the extra 'flask' of aether-sync", name=missing.name
    ) from missing

from ._extension import Aether

__all__ = ["Aether"]
