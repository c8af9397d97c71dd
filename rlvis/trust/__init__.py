"""Trust: how far each group's reward is believed.

Rewards and a PriorState come in, Trust and the next PriorState go out; all is global and equal on every rank.
"""
