"""A run: the five stages in order (pipeline), the loop around them, checkpoints, the run folder and its
manifest.
"""
