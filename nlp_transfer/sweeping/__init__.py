"""Many runs from one command: every combination or a search, one after the other, beside each other or on a cluster."""
