"""Prediction over files larger than memory, resumable, on several hosts."""
