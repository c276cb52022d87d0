"""From logits to predictions: labels, abstention, novelty, label sets and their guarantees."""
