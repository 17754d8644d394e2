"""Benchmarks and the demonstration; each module is a script: `python -m bench.NAME`."""
