"""What Flask-Background costs, as ratios to its peers in the same run: ``python -m benchmarks``."""
