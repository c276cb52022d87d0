"""The saved folder."""
