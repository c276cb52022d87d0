"""Rows in, token batches out: sources, the task they define, splits, checks, tokens and the order of examples."""
