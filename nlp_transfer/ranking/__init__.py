"""Which encoder to start from: every layer of each is asked how much it tells of the labels, before any is trained."""
