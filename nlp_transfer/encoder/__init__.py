"""The reused model: from a name to a verified pretrained encoder with a head, and where its architecture keeps what.

Knows nothing of strategies, objectives, training or evaluation.
"""
