"""The plan of a run: memory of a GPU by part and seconds of a step, from configuration files alone.

In: a configuration. Out: parts in bytes, phases in seconds, and the smallest change that would fit. Modules
lie on the meta device, so the largest model is planned in seconds on a laptop. See docs/plan.md.
"""
