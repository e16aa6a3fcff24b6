"""Helpers that all parts of the loader use: files, folders, JSON and the console."""
