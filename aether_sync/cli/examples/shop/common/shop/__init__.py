"""A small shop: orders are placed and shipped, and a page shows it while it happens."""
