"""Answers of trained models for any pictures: finding both, one pass in bounded memory, and the file of answers."""
