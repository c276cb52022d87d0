"""Strategies beside each other and beside floors, at several numbers of labels, and whether transfer helped."""
