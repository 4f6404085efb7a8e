"""The trial folder's format, both ways: what a run writes, and what of it may be believed."""
