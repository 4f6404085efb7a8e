"""Starts or joins Ray, keeps it private, and watches for signals."""
