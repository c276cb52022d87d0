"""What is computed once and kept for later runs."""
