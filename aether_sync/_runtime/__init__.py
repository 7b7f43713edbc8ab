"""What every thread here needs: deadlines, locks and waits, forks and exits, logging, and the loop thread."""
