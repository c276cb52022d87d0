"""The objective of a run: a weighted sum of named loss terms."""
