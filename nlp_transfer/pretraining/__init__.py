"""Further pretraining of the encoder by masked-language modelling on texts of the task."""
