"""What a person at a terminal sees: warnings, bars, errors, the state of the machine."""
