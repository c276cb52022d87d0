"""From data sources to token batches: reading, the task definition, splits, checks, tokenisation and example order."""
