"""Masked-language modelling on texts of the task before a run: the encoder that the run then starts from."""
