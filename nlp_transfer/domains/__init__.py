"""Two domains of one task."""
