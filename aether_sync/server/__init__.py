"""A local nats-server, or a cluster of them, for demos, tests and development."""
