"""A run: the five stages in order (pipeline) and the loop around them.

pipeline   one training step            sampling   rollout and scoring, shard by shard
loop       steps until the end          parts      what a run is made of; assemble puts it together
reference  scores of other samples      refill     fresh samples for those without a score
guard      the sentinels at work        evaluate   held-out prompts, in a run and alone
single_stage   one stage on what another saved
"""
