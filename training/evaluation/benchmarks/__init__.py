"""Benchmarks: prompts, detectors, attacks and metrics for one kind of base."""
