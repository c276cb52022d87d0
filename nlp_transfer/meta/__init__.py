"""Encoders that are good at classes of which there will be a handful of examples: learned in episodes of such tasks."""
