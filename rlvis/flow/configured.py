"""From the `sampler` config group to the objects of this room; rollout and update build theirs here, so they
agree.
"""

from __future__ import annotations

import torch

from rlvis.flow.kernel import Kernel, Prediction
from rlvis.flow.transition import StepTable, table
from rlvis.records import Schedule
from rlvis.schema import SamplerConfig, WindowKind


def kernel(sampler: SamplerConfig, prediction: Prediction) -> Kernel:
    """The transition kernel that `sampler.{kernel, noise, eta}` name, for a model with this prediction.

    Raises:
        ValueError: see `Kernel`.
    """
    return Kernel(sampler.kernel, sampler.noise, sampler.eta, prediction)


def rehearsal(kernel: Kernel, steps: int, *, curved: bool) -> StepTable:
    """The kernel on a plain line of noise levels, before a model is there to say its own.

    curved: sigma and alpha as of a variance-preserving diffusion, else of a flow. Raises as `table`.
    """
    line = torch.linspace(0.98, 0, steps + 1)
    arc = line * torch.pi / 2
    sigma, alpha = (arc.sin(), arc.cos()) if curved else (line, 1 - line)
    return table(kernel, Schedule(sigma=sigma, alpha=alpha, time=1000 * line[:-1]))


def per_sample_steps(sampler: SamplerConfig) -> bool:
    """Whether every sample has its own trained transitions, so that rows of one forward are at different
    steps.
    """
    window = sampler.window
    return window.per_sample and window.kind in (WindowKind.random_subset, WindowKind.random_window)


def storage(sampler: SamplerConfig) -> torch.dtype:
    """The dtype that states are rounded to and kept in."""
    dtype: torch.dtype = getattr(torch, sampler.storage)
    return dtype
