"""Comparison of many methods on one concept: every method trained by its recipe, evaluated alike, in one report."""
