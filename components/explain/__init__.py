"""Explain: numbers of what happens between input and answer, without a word of how they look."""
