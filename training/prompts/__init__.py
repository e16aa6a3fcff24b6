"""Prompts, as text and as rows of tokens."""
