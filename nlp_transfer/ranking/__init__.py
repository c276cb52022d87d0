"""Ranking of encoders, without training them, by how well a linear probe on each layer predicts the labels."""
