"""Recipes: complete training runs with names."""
