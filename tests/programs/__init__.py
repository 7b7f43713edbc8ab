"""Programs that tests run in processes of their own: they fork, exit or are killed."""
