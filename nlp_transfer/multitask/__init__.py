"""Several tasks learned together on one encoder: who teaches whom, and a run folder for each of them."""
