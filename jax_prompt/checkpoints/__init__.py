"""Weights in, training states in and out."""
