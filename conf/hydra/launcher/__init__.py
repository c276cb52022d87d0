"""The launchers, which start the runs of a sweep."""
