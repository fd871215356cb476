"""How well and how fast the tabs work; needs benchmarks/requirements.txt beside the app's own."""
