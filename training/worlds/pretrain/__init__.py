"""Training of an embedded base."""
