"""Compute: from a lent model to its answer, for several visitors at once."""
