"""Named, complete training runs."""
