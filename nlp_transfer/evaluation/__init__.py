"""Metrics, calibration, bootstrap intervals and baseline floors, computed from predictions."""
