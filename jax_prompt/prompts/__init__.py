"""What is trained: virtual tokens, layouts, initialisers, methods and the prompt file."""
