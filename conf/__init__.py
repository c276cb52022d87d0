"""Every setting with its default and a comment: the reference manual of nlp_transfer."""
