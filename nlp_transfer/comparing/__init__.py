"""Comparison of strategies with each other and with baselines, at several numbers of labels."""
