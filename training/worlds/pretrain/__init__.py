"""Training of an embedded base from scratch."""
