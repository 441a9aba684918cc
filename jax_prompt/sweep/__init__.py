"""Sweeps: many runs over a search space, which processes and hosts share and no kill spoils."""
