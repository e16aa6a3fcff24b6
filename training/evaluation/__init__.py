"""Evaluation of encoders: attacks, judgement, aggregation."""
