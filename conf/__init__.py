"""Every knob, its default and one comment: the reference manual of nlp_transfer."""
