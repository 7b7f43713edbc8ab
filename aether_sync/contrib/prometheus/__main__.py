"""Prints the dashboard for Grafana: ``python -m aether_sync.contrib.prometheus > dashboard.json``."""

import sys
from importlib.resources import files

sys.stdout.write((files(__package__ or "") / "dashboard.json").read_text(encoding="utf-8"))
