"""One run from settings to a saved and evaluated model: preparation, training, evaluation, resuming."""
