"""Embedded bases, and how they are made."""
