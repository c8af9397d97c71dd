"""From the words of a command line to one typed configuration: group files by Hydra, values by us, every name
checked.

In: overrides such as "model=sd3" or "optim.lr=1e-4". Out: a `schema.Config`, or one ConfigError that says
what to type. Nothing here imports torch, so a mistake shows at once.
"""
