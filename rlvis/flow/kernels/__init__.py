"""The options of sampler.kernel, one module each; ENTRY is a function as rlvis/flow/kernel.py describes."""
