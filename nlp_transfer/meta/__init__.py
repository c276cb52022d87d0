"""Episodic meta-learning of encoders for new classes with a handful of examples each."""
