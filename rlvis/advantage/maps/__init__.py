"""ViPO's Perceptual Structuring Module (arXiv 2511.18719): decoded frames in, a map over the latent grid out.

Frames -> patch tokens of a vision backbone -> principal components -> one map a frame -> smoothed, resized to
the latent grid, resized in time -> M >= 0, float32 [N, F, H, W]. Everything is batched and stays on the
device; nothing depends on rewards, so maps are made as soon as a shard is decoded.
"""
