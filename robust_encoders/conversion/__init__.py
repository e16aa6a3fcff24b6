"""Conversion of the weight formats of other projects to an artifact of this package, and back to files for them."""
