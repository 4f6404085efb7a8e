"""Trains one configuration: `fit`, and all that it needs between the data and the trial folder."""
