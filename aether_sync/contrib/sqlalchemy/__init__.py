"""What SQLAlchemy is used for: projections that write through it, and a transactional outbox. Extra ``sqlalchemy``."""

from .._extra import extra

with extra(__name__, "sqlalchemy", "SQLAlchemy"):
    import sqlalchemy  # noqa: F401

from ._database import SQLAlchemy
from ._outbox import Outbox

__all__ = ["Outbox", "SQLAlchemy"]
