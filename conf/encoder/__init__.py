"""The choices of the group `encoder`."""
