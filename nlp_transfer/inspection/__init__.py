"""Data checks before training: defects of a corpus, and a corrected copy."""
