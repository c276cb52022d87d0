"""A demo page in the browser for a saved model, for people who do not program."""
