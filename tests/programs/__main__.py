"""``python -m tests.programs MODULE NAME [ARGUMENT ...]`` runs one of them."""

import importlib
import sys

_, module, name, *arguments = sys.argv
getattr(importlib.import_module(f"tests.programs.{module}"), name)(*arguments)
