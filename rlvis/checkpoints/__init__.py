"""Checkpoints: everything a run needs to go on bit for bit, in a folder that is either whole or not there.

files    the folder on disk: what is whole, what is damaged, which is the newest, which go (no torch)
writer   a background thread that writes, sums, syncs and renames
state    what is saved and loaded
open_run which folder a run writes into, and which checkpoint it goes on from
resume   the settings of a run that goes on; permission: what it may change
eval_weights   which weights `rlvis eval` means
export   the weights of a checkpoint as stock diffusers opens them, without an engine
"""
