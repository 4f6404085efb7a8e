"""Drives the trials of a plan under Ray Tune, and keeps the ledger of them."""
