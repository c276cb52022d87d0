"""Files for `accelerate launch --config_file`, to start a run on several processes. Not a group of the settings."""
