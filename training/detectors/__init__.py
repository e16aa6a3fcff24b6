"""Detectors of a concept in pictures, one file each."""
