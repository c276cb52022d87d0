"""The training loop and its parts: optimizer, micro-batches, checkpoints, precision, ranks, inference."""
