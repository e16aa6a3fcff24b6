"""A finite certificate of an encoder: short prompts ranked by distance to the concept, and samples of them drawn."""
