"""Projections: rows in the user's database, made of events, each of which takes effect there exactly once."""
