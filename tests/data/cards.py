"""A data card, and commits of the Hub."""

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40
CARD = """---
dataset_info:
  features: [{name: text, dtype: string}, {name: label, dtype: {class_label: {names: {'0': z, '1': y}}}}]
---
"""
