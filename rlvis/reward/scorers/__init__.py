"""What judges samples: a module for each option of `scorer`, whose ENTRY is a function or a class as
`rlvis.reward.contract` says.

The folder is the list (`rlvis.reward.facts.SCORERS`); nothing is imported before a run asks for it.
"""
