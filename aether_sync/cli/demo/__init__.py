"""``aether-sync demo``: three node processes publish and read for a while, and every event is accounted for."""

from .run import run_demo

__all__ = ["run_demo"]
