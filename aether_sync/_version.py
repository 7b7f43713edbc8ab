"""The version, alone, so that packaging can read it without importing the package."""

__all__ = ["__version__"]

__version__ = "0.1.0"
"""The version of the library, as ``pip`` knows it."""
