"""Adapters and projections: what they compute and how they are stored."""
