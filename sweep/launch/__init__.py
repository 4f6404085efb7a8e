"""From a plan to a running sweep: the checks before, the session and its log, curves for TensorBoard."""
