"""Two domains of one task: how far they are apart, and what adapting from one to the other was worth."""
