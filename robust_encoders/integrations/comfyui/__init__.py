"""Artifacts in the models of a ComfyUI graph: choose, check, attach, and say what is covered."""
