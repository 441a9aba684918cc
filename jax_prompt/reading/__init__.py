"""Reading prompts: what their rows are near, what taking them out costs, what attends to them."""
