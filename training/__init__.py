"""How the starters were made: one script per starter, each run by hand (`python -m training.<name>`)."""
