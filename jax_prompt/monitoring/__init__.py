"""Watching prompts in use: figures on fresh labelled data, and drift of inputs and answers."""
