"""What the scripts that make the embedded assets share.

state: seeded generators, and the file that a run goes on from. phases: one optimization loop for all of them.
flow: rectified flow of a policy, its average and its sampler. networks: configurations (networks.yaml) and
word tokenizers. prompts: wrong captions, accuracies by kind. command: flags and the start of a script.
folders: what is written, with the cards (cards/*.md). What one asset alone needs is in image_*, video_* and
clip_*, and in its script.
"""
