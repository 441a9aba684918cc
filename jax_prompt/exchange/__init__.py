"""Prompts in and out: PEFT, T5X, numpy, the Hugging Face hub."""
