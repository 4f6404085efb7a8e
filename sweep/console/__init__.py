"""What a sweep says on the terminal: dry run, progress, summary."""
