"""The choices of the group `strategy`."""
