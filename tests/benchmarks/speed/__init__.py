"""The benchmark of speed: `python -m tests.benchmarks.speed`."""
