"""Metrics, calibration, bootstrap intervals and baselines, computed from predictions."""
