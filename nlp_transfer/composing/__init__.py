"""Parse key=value words, YAML files and the shipped configuration into plain values."""
