"""Trial folders to tables, intervals and a verdict."""
