"""What stands beside the leaderboard: ensembles of its trials, and models of somebody else."""
