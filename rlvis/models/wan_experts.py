"""Wan2.2-A14B's two denoisers as one module: one for high noise, one for low, by the model's time.

Both stand in one engine, so that one optimizer step and one clipping see both. A forward runs the one that
its rows need. Rows at different steps run both in full and keep theirs: rollout and update then multiply
matrices of one shape, and all ranks run the same forwards and reduce the same gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NAMES = ("transformer", "transformer_2")  # of the components in the pipeline, and before parameter names


class Experts(nn.Module):
    """transformer where model time >= boundary, transformer_2 below."""

    # Read by the engine: a backward may leave parameters without a gradient.
    partly_used = True

    def __init__(self, high: nn.Module, low: nn.Module, boundary: float) -> None:
        """boundary: in units of model time (0 .. 1000)."""
        super().__init__()
        self.transformer = high
        self.transformer_2 = low
        self.boundary = boundary

    @property
    def config(self) -> Any:
        """Of the first; both have one architecture."""
        return self.transformer.config

    def high(self, time: Tensor) -> Tensor:
        """[B] bool: rows that `transformer` denoises; the rest belong to `transformer_2`."""
        return time >= self.boundary

    def forward(self, *, timestep: Tensor, mixed: bool = False, **inputs: Any) -> tuple[Tensor]:
        """Output of each row's expert. timestep: [B]; inputs: as of the denoisers, with return_dict=False.

        mixed: rows may be at different steps, here or on other ranks, so both run whatever these rows need.
        """
        assert timestep.ndim == 1, f"experts take one time a row, got {list(timestep.shape)}"
        high = self.high(timestep)
        # Without weights (a plan of the memory) there are no values, and either expert is as large.
        if timestep.is_meta or not (mixed or bool((high != high[0]).any())):
            expert = self.transformer if timestep.is_meta or bool(high[0]) else self.transformer_2
            return (expert(timestep=timestep, **inputs)[0],)
        outs = [expert(timestep=timestep, **inputs)[0] for expert in (self.transformer, self.transformer_2)]
        return (torch.where(high.view(-1, *[1] * (outs[0].ndim - 1)), outs[0], outs[1]),)
