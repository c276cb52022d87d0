"""From logits to what a model says: labels, whether it knows, and how sure it is."""
