"""Side-by-side speed measurements; run them as `python -m benchmarks.NAME`."""
