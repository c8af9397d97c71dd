"""Stage 1, rollout: prompts in, trajectories out.

In: a policy, a PromptBatch, the rows to sample. Out: Trajectories with the states that trained transitions
touch, log-probs per position, and decoded frames. Nothing here knows rewards.
"""
