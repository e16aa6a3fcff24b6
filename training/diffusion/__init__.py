"""The parts of a Stable Diffusion pipeline, behind one interface."""
