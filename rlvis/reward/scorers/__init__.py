"""What judges samples: one module for each scorer, functions or classes as `rlvis.reward.contract` says.

Nothing is imported before a run asks for it by the names in `rlvis.reward.scorer.KNOWN`.
"""
