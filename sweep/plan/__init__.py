"""SweepSpec to explicit trials, and their cost."""
