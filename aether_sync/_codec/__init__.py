"""The wire format: an event as JSON, and the envelope in which it goes from node to node. Go nodes use the same one."""
