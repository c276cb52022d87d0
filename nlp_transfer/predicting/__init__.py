"""Predict with saved and exported models: texts, files, and word attributions."""
