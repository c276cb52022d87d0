"""Saved models: writing, loading and validating their folders."""
