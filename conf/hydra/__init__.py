"""What --multirun can be told beside the keys of a run."""
