"""What all threads of this library need: deadlines, locks and waits, forks and exits, logging, and the loop thread."""
