"""Latents and predictions of the frozen model."""
