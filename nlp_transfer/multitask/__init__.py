"""Multitask training of one encoder, with a run folder for each task, and measured transfer between tasks."""
