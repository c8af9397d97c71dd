"""Benchmarks: what a run costs beyond the bare model calls, in seconds and in bytes.

`python -m benchmarks.overhead` writes benchmarks/results/overhead_<device>.json and .md; README.md says how
to read them.
"""
