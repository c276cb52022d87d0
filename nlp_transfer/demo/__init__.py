"""A saved model on a page in the browser, for people who write no programs."""
