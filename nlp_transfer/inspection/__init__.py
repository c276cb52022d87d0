"""A corpus looked at before anything is trained: what is wrong with its rows, and a copy in which that is mended."""
