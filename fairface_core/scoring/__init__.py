"""Turns logits and labels into numbers, and asks whom a model fails."""
