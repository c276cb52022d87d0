"""What `accelerate launch --config_file` reads: how a run is started on several processes. No group of a run's keys."""
