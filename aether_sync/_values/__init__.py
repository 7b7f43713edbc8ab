"""Clocks, counters, and how values are shown in messages. All other modules may import from here."""
