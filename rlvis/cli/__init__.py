"""The command `rlvis` and its verbs, a module each; `python train.py` is `rlvis train`.

In come words, out goes an exit code. A mistake in the words or the configuration ends with exit code 2 and
one message, before torch is imported; everything heavy is imported by the verb that needs it.
"""

from rlvis.cli.program import entry, main

__all__ = ["entry", "main"]
