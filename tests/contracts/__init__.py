"""What every implementation of a bus, and every one of a store, promises: a class a theme, to be subclassed."""
