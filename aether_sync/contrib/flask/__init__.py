"""``Aether``: the bus and the store of a Flask application. Needs the extra ``flask``."""

from .._extra import extra

with extra(__name__, "flask", "Flask"):
    import flask  # noqa: F401

from ._extension import Aether

__all__ = ["Aether"]
