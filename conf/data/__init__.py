"""The choices of the group `data`."""
