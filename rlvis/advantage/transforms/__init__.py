"""The options of advantage.transform, one module each; its ENTRY is a function of the form that
rlvis/advantage/transform.py describes.

There is none yet: what belongs here has a source and learns no worse than advantage=grpo without it. Centred
ranks in place of values (natural evolution strategies, JMLR 15, 2014) did not show that in three paired seeds
of the default run: 69 % of held-out samples right after 60 steps, against 74 %, less in each pair.
"""
