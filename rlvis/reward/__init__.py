"""Rewards: what each sample is worth, term by term, and which samples could not be judged.

In: decoded media uint8 [N, M, 3, Y, X] with the prompts and metadata of its rows. Out: Rewards, gathered on
every rank. A scorer (scorer) is any function `images, prompts, metadata -> scores`; the stage (stage) keeps
the contract that a failed score is masked and counted, and never becomes a number.
"""
