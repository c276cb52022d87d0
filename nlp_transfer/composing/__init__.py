"""From words, YAML and what is shipped to plain values."""
