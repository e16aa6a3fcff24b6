"""CLIP text encoders: key layouts, and plain modules of tensors."""
