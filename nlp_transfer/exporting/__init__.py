"""Export a saved model to run without torch, and compare the export with the original."""
