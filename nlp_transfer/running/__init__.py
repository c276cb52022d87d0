"""One run from settings to a saved, measured model: what it prepares, learns and measures, and how it goes on."""
