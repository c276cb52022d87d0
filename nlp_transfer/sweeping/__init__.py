"""Many runs from one command: all combinations of values or a search, in sequence, in parallel or on a cluster."""
