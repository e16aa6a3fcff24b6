"""Attaching to a diffusers pipeline, and undoing it exactly."""
