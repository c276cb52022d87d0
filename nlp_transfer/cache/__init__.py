"""A cache of computed results (features, token ids, streamed rows) that later runs reuse."""
