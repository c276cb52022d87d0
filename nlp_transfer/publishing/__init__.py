"""Publish saved models on the Hub, with verification and a model card, and download them."""
