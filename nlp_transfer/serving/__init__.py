"""A saved model over HTTP: requests that wait together are answered in one forward pass."""
