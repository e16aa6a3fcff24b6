"""Checks that tell if an artifact fits a pipeline; all reasons against it are reported at once."""
