"""Which runs a sweep consists of."""
