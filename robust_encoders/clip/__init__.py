"""CLIP text encoders: key layouts of their tensors, and models built from tensors."""
