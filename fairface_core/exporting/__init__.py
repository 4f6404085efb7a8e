"""A trained model as files for other programs, each loaded again by its own runtime and held against the model."""
