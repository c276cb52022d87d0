"""Pretrained encoders: find and verify one by name, put a classification head on it, and analyse its architecture.

Independent of strategies, objectives, training and evaluation.
"""
