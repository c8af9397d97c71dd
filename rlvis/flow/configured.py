"""From the `sampler` config group to the objects of this room; rollout and update build theirs here, so they
agree.
"""

from __future__ import annotations

from typing import cast

import torch

from rlvis.flow.kernels import Kernel, Prediction
from rlvis.schema import Dtype, SamplerConfig, WindowKind

DTYPES = {Dtype.float32: torch.float32, Dtype.bfloat16: torch.bfloat16, Dtype.float16: torch.float16}


def kernel(sampler: SamplerConfig, prediction: str) -> Kernel:
    """The transition kernel that `sampler.{kernel, noise, eta}` name, for a model with this prediction.

    Raises:
        ValueError: see `Kernel`.
    """
    return Kernel(
        name=sampler.kernel.value,
        noise=sampler.noise.value,
        eta=sampler.eta,
        prediction=cast(Prediction, prediction),
    )


def per_sample_steps(sampler: SamplerConfig) -> bool:
    """Whether every sample has its own trained transitions, so that rows of one forward are at different
    steps.
    """
    window = sampler.window
    return window.per_sample and window.kind in (WindowKind.random_subset, WindowKind.random_window)


def storage(sampler: SamplerConfig) -> torch.dtype:
    """The dtype that states are rounded to and kept in."""
    return DTYPES[sampler.storage]
