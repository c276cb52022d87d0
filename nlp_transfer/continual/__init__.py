"""Continual learning from a model that was adapted before: kept labels, replay, and measured forgetting."""
