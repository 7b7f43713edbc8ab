"""The wire format: an event as JSON, and the envelope in which it crosses nodes. Go nodes read and write the same."""
