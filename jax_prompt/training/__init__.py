"""Training a soft prompt: forward pass, losses, optimizers, the step, the loop, its reports."""
