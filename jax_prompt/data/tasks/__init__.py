"""Tasks: where text comes from and what shall be answered to it; they know no prompts."""
