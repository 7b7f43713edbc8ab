"""A store's events in a JetStream stream: requests, reading, writing, snapshots, following."""
