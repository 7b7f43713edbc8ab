"""Projections: promises on both stores and both databases; standbys, faults, forks, the end of a process."""
