"""From a published or received event to the queues of the subscriptions that match it."""
