"""A run folder as runs of an experiment tracker: the trackers mirror the folder, nothing is read back from them."""
