"""Values, as they are read off clocks and shown in messages. Everything else may import from here."""
