"""The sweepers, which propose the runs of a sweep."""
