"""The ground every stage stands on: processes (dist), randomness (rng), DeepSpeed (engine), progress on a
terminal.

Nothing here knows about prompts, rewards or policies beyond their numbers.
"""
