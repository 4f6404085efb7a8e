"""Programs that print ratios against a peer in the same run. Not installed; run as `python -m benchmarks.NAME`."""
