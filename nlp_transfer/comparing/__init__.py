"""Comparison of strategies with each other and with floors, at several numbers of labels."""
