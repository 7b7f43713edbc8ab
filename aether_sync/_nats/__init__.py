"""The connection to NATS: bytes and subjects, and no events. Nothing else imports nats-py.

Most of it runs on the loop thread; ``channel``, ``call``, ``requests``, ``outbox`` and ``shortcut`` also on the threads
that use it, as their docstrings say.
"""
