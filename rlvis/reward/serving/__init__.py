"""Scorers elsewhere: a server for any reward, a client that is a scorer, a pool of Ray actors.

In: what every scorer gets. Out: what every scorer gives, or an exception, which the score stage makes an
invalid sample of. Nothing here turns a lost answer into a number.
"""
