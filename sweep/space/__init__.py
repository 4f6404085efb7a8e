"""A search space: YAML to a checked SweepSpec."""
