"""Stop, race, confirm: pure decisions over what the trial folders say."""
