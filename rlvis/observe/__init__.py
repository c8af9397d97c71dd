"""Observe: what a run writes down while it trains.

In: records and reduced values of a step. Out: metrics under documented keys (metrics), their reduction over
micro-batches and ranks (values), lines in metrics.jsonl, wandb and tensorboard (trackers), and sheets of
samples (gallery).
"""
