"""The coroutine side: everything here runs on the loop thread, and nothing else imports nats-py."""
