"""The arithmetic and the tensors of adapters, projections, deltas and erasers."""
