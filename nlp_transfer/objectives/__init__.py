"""What a run minimises: named terms, summed over one forward pass."""
