"""Prompts as text and as token rows."""
