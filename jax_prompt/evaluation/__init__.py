"""Metrics, and the evaluator over inference."""
