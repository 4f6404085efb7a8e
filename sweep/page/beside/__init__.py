"""What leaves the page, tables to be copied, and the page of two runs."""
