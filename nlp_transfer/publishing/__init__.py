"""A saved model on the Hub, and from it: verified, described by a card, pushed, pulled."""
