"""The arithmetic and the tensors of adapters and projections."""
