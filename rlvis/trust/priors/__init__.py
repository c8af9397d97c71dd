"""The options of prior.kind, one module each; its ENTRY is a class of the form that rlvis/trust/prior.py
describes.

T2V, I2V and T2I priors of arXiv 2511.18919 are `reference`, `first_frame` and `moving_average`.
"""
