"""What SQLAlchemy is used for: projections that write through it, and a transactional outbox. Extra ``sqlalchemy``."""

try:
    import sqlalchemy  # noqa: F401
except ModuleNotFoundError as missing:
    if missing.name != "sqlalchemy":
        raise
    raise ModuleNotFoundError(
        "aether_sync.contrib.sqlalchemy needs SQLAlchemy: install the extra 'sqlalchemy' of aether-sync",
        name=missing.name,
    ) from missing

from ._database import SQLAlchemy
from ._outbox import Outbox

__all__ = ["Outbox", "SQLAlchemy"]
