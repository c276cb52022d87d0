"""Output to the terminal: warnings, progress bars, errors, and the state of the machine."""
