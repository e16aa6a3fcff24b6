"""Latents and predictions of the frozen model along its DDIM trajectories."""
