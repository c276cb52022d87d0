"""Serve a saved model over HTTP, with dynamic batching."""
