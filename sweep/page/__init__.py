"""The report page and the model cards."""
