"""Weights: which checkpoints there are, where they come from, and how they get onto the disk."""
