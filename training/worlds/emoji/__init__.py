"""The emoji world: things from four licensed icon sets, the names that people gave them, and CLIP's own tokenizer."""
