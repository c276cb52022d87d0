"""The settings of --multirun: sweepers and launchers."""
