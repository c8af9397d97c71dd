"""The backbone that a run takes: ours or the user's own, held to its form and to the frames."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlvis.advantage.maps.backbone import BACKBONES, CONTRACT, Backbone, Features, is_own, load
from rlvis.advantage.maps.grid import LEAST, MOST, cells
from rlvis.findings import ConfigError, mistake
from rlvis.named import bind
from rlvis.schema import MapConfig

log = logging.getLogger(__name__)


def build(config: MapConfig, device: torch.device, height: int, width: int) -> Features:
    """The backbone of a configuration, loaded, and fit for frames of height x width pixels.

    Raises ConfigError or ValueError: there is none of that name, its weights cannot be had, frames are too
    small for it, or one of the user's own gives something else than features on a grid.
    """
    if not is_own(config):
        return _ours(config, device, height, width)
    own: Any = own_class(config)(**config.backbone_kwargs)
    if isinstance(own, nn.Module):
        own = own.to(device).eval().requires_grad_(False)
    if config.enlarge != 1:
        own = Enlarged(own, config.enlarge)
    with torch.no_grad():
        result = own(torch.full((1, 3, height, width), 0.5, device=device))
    if wrong := _misses(result):
        raise BACKBONES.misfit(config.backbone, f"for one frame of {height} x {width} it returns {wrong}")
    features: Features = own
    return features


def _ours(config: MapConfig, device: torch.device, height: int, width: int) -> Backbone:
    ours = load(config, device)
    grid = ours.grid(height, width)
    if ours.fixed is not None:
        if config.enlarge != 1:
            raise ConfigError(
                mistake(
                    f"advantage.map.enlarge={config.enlarge:g} does nothing with {ours.name}, which takes "
                    f"frames of {ours.fixed[0]} x {ours.fixed[1]} pixels alone",
                    "advantage.map.enlarge=1",
                )
            )
    elif grid != (whole := cells(height, width, ours.patch, config.enlarge)):
        log.info(
            "maps: frames of %d x %d pixels would be %d x %d tokens, more than %d: they are resized to "
            "%d x %d pixels, %d x %d tokens, for the backbone",
            *(height, width, *whole, MOST, grid[0] * ours.patch, grid[1] * ours.patch, *grid),
        )
    return ours


class Enlarged:
    """Features of frames resized by a factor."""

    def __init__(self, features: Features, factor: float) -> None:
        self.features, self.factor = features, factor

    def __call__(self, frames: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """As `Features`."""
        size = [round(side * self.factor) for side in frames.shape[-2:]]
        return self.features(
            F.interpolate(frames, size=size, mode="bilinear", align_corners=False, antialias=True)
        )


def own_class(config: MapConfig) -> type:
    """The user's class, which can be constructed and whose instances can be called. Raises ConfigError."""
    found = BACKBONES.find(config.backbone)
    what = f"advantage.map.backbone={config.backbone}"
    mro = found.__mro__ if inspect.isclass(found) else ()
    call = next((vars(base)["__call__"] for base in mro if "__call__" in vars(base)), None)
    if call is None:
        raise BACKBONES.misfit(config.backbone, "it is no class whose instances can be called")
    bind(found, (), config.backbone_kwargs, what, key="advantage.map.backbone_kwargs", contract=CONTRACT)
    if not issubclass(found, nn.Module):  # whose __call__ is torch's
        bind(call, ("self", "frames"), {}, f"{what}: its __call__", contract=CONTRACT)
    cls: type = found
    return cls


def _misses(result: Any) -> str:
    """What a returned value lacks to be (tokens, grid) of one frame, in words; empty when it is that."""
    if not (isinstance(result, tuple) and len(result) == 2):
        return f"a {type(result).__name__}, no pair"
    tokens, grid = result
    if not isinstance(tokens, Tensor) or tokens.ndim != 3 or not tokens.is_floating_point():
        what = f"{list(tokens.shape)} {tokens.dtype}" if isinstance(tokens, Tensor) else type(tokens).__name__
        return f"tokens that are {what}"
    pair = isinstance(grid, tuple | list) and len(grid) == 2 and all(isinstance(side, int) for side in grid)
    if not pair or min(grid) < LEAST:
        return f"the grid {grid!r}"
    if tokens.shape[0] != 1 or tokens.shape[1] != grid[0] * grid[1]:
        return f"tokens {list(tokens.shape)} for a grid of {grid[0]} x {grid[1]}"
    return "" if bool(torch.isfinite(tokens).all()) else "tokens that are not finite"
