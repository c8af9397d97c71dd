"""Diffusers pipelines as policies: text in, one denoiser call, pixels out, adapters and export.

In: a `ModelConfig`. Out: a `Policy` (policy.py), which rollout and update call and training exports. A family
is one file of families/ (or of the user's own); LoRA, the reference policy, guidance, decoding and export are
shared.
"""
