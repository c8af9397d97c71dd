"""Sampling as a policy: schedules, transition kernels with their log-probability, trained windows.

In: a number of steps, a kernel's name and constants, states and model outputs. Out: a `Schedule`, a table of
float64 coefficients per step, the mean and std of one transition, a log-probability per latent position, and
a `Window`. Rollout and update call the same `transition.transition` and `logprob.log_prob`, so the ratio
before the first update is 1.
"""
