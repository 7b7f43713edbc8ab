"""Event stores: append-only events by actor, in memory and on JetStream."""
