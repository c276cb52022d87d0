"""Going on from a model that was adapted before: its labels, rows that taught it, and what it forgets."""
