"""rlvis: post-training of image and video generators with GRPO, BPGO and ViPO on diffusers models."""

__version__ = "0.1.0"
