"""Bridges to other packages, each behind an extra of its own name. They use what is public, as a program does."""
