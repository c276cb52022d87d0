"""A saved model answers: texts, files, words that decided."""
