"""The frozen models: what one must offer, T5, opening one, and where a prompt meets it."""
