"""The run folder: what was asked, what is recorded, and who holds it."""
