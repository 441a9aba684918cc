"""Designs, searches, methods and model tuning on the same data, seeds and model, side by side."""
