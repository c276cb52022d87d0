"""The choices of the group `objective`."""
