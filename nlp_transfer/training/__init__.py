"""The loop that adapts the encoder; it knows no strategy and no term by name."""
