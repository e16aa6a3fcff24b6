"""Plug-ins for the programs of others; each is imported by its program alone."""
