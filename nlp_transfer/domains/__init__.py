"""Domain adaptation: the distance between two domains, and the comparison with a source-only run."""
