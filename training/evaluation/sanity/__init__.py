"""Checks of an evaluation's attacks."""
