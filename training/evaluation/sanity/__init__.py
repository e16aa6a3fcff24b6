"""Sanity checks of an evaluation's attacks."""
