"""Observe: what a run writes down while it trains, and what its curves say of its health.

In: records and reduced values of a step. Out: metrics under documented keys (metrics, metric_table), lines in
metrics.jsonl, wandb and tensorboard (trackers), sheets of samples (gallery), statistics of the samples
themselves and their alarms (sentinels), and the symptoms of a run (history, health).
"""
