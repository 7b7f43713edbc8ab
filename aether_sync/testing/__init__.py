"""What tests of a program on ``aether_sync`` need."""

from .survives import Survival, assert_survives

__all__ = ["Survival", "assert_survives"]
