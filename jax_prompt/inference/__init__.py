"""Using a prompt: generation, rank classification and prediction over files."""
