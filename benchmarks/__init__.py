"""Demos and timings: `python -m benchmarks`, from the checkout."""
