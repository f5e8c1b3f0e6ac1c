"""Figures, each file one table with its peers in the same run: `python -m benchmarks.NAME [--depth=full] [--check]`."""
