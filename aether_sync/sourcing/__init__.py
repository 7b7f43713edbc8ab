"""Event sourcing as people write it: states that are made of events, and decisions that make new ones."""
