"""The supervisor of ``aether-sync run``: starts the processes that run a worker, and starts again those that end."""
