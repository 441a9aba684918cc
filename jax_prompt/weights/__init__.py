"""Models in: Hugging Face, T5X, ONNX, torch pickles, converted folders -> their shards."""
