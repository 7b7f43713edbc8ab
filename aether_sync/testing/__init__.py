"""What tests of programs with events need: the means of the pytest plugin, and ``AetherTestCase`` for ``unittest``.

The plugin itself is the module ``pytest_aether_sync``, outside of this package: pytest imports it in every run, whether
a test uses it or not, and it would have to import the whole package first.
"""

from ._link import BrokenLink
from ._logs import LogRecorder
from ._published import Published
from ._unittest import AetherTestCase
from .survives import Survival, assert_survives

__all__ = ["AetherTestCase", "BrokenLink", "LogRecorder", "Published", "Survival", "assert_survives"]
