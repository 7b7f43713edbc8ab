"""Durable consumers: deliveries of events, at least once, shared out among processes, threads and dead letters."""
