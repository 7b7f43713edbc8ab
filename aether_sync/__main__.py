"""``python -m aether_sync`` is ``aether-sync``."""

from .cli import main

if __name__ == "__main__":  # the node processes of the demonstration import this file under another name
    main()
