"""What a map's backbone is: frames in, patch features on a grid out.

The modules of rlvis/advantage/maps/backbones are ours: each says what is particular about a family, and loads
its checkpoints, safetensors only. One of the user's own is a class named by its dotted path. Frames are taken
at their own size, rounded down to the patch, where the model takes any size; otherwise they are resized to
the one it was trained on, which the map's way back to the latent grid undoes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlvis.advantage.maps.grid import LEAST, capped, cells, too_small
from rlvis.findings import ConfigError, mistake
from rlvis.named import Folder
from rlvis.schema import MapConfig

CONTRACT = """\
class MyFeatures:
    def __init__(self, **backbone_kwargs): ...
    def __call__(self, frames):  # [n, 3, Y, X] float in [0, 1], on the run's device
        return tokens, (gh, gw)  # float [n, gh * gw, D], row by row over a grid of at least 4 x 4 patches"""
BACKBONES = Folder("advantage.map.backbone", "rlvis.advantage.maps.backbones", CONTRACT)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Features(Protocol):
    """What a map needs of a backbone."""

    def __call__(self, frames: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Frames [n, 3, Y, X] in [0, 1] -> tokens [n, gh * gw, D] and (gh, gw)."""


class Layout(NamedTuple):
    """patch: pixels a grid cell. prefix: tokens before the patches (CLS, registers). fixed: the only size
    (Y, X) it takes, or None.
    """

    patch: int
    prefix: int = 0
    fixed: tuple[int, int] | None = None


class Backbone(ABC):
    """A frozen vision model of ours on a device; usual: what it opens without advantage.map.backbone_path."""

    usual: str = ""
    usual_patch: int | None = None
    patch: int
    prefix: int
    fixed: tuple[int, int] | None

    def __init__(
        self,
        module: Any,
        device: torch.device | str = "cpu",
        mean: tuple[float, ...] = IMAGENET[0],
        std: tuple[float, ...] = IMAGENET[1],
        name: str = "the backbone",
        layer: int | None = None,
        enlarge: float = 1.0,
    ) -> None:
        """mean, std: of its normalisation. name: for messages. layer, enlarge: as in the configuration."""
        self.module, self.name, self.layer, self.enlarge = module, name, layer, enlarge
        self.mean, self.std = (torch.tensor(x, device=device)[:, None, None] for x in (mean, std))
        self.patch, self.prefix, self.fixed = self.layout()

    @classmethod
    @abstractmethod
    def load(cls, config: MapConfig, device: torch.device) -> Self:
        """The backbone that a configuration names. Raises ConfigError where it cannot be had."""

    @classmethod
    @abstractmethod
    def skeleton(cls, config: MapConfig) -> nn.Module:
        """The same without its weights, on the meta device, from configuration files alone; raises whatever
        reading these raises.
        """

    @classmethod
    def repository(cls, config: MapConfig) -> tuple[str, str]:
        """Where it lies (an id of the hub, or a folder), and a file that must be there."""
        return config.backbone_path or cls.usual, "config.json"

    @classmethod
    def patch_ahead(cls, config: MapConfig) -> int | None:
        """Pixels of a patch as far as they are known before anything loads; None where they are not, or where
        frames have one size.
        """
        return cls.usual_patch if config.backbone_path is None and config.layer is None else None

    @abstractmethod
    def layout(self) -> Layout:
        """How tokens lie on a frame."""

    @abstractmethod
    def hidden(self, pixels: Tensor) -> Tensor:
        """Tokens with their prefix [n, L, D], or a feature map [n, D, gh, gw], of normalised frames."""

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Cells (gh, gw) for frames of that size, enlarged, and at most MOST of them.

        Raises ConfigError where there are fewer than LEAST along a side.
        """
        if self.fixed:
            grid = (self.fixed[0] // self.patch, self.fixed[1] // self.patch)
            if min(grid) < LEAST:
                raise ConfigError(
                    mistake(
                        f"{self.name} takes frames of {self.fixed[0]} x {self.fixed[1]} pixels alone, a grid "
                        f"of {grid[0]} x {grid[1]}; a map needs at least {LEAST} x {LEAST} patches",
                        "advantage.map.backbone=dinov2",
                    )
                )
            return grid
        if wrong := too_small(height, width, self.patch, self.enlarge, self.name):
            raise ConfigError(wrong)
        return capped(cells(height, width, self.patch, self.enlarge))

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """frames [n, 3, Y, X] float in [0, 1] -> tokens [n, gh * gw, D] float32 and (gh, gw)."""
        grid = self.grid(*frames.shape[-2:])
        size = (grid[0] * self.patch, grid[1] * self.patch)
        if frames.shape[-2:] != size:
            frames = F.interpolate(frames, size=size, mode="bilinear", align_corners=False, antialias=True)
        hidden = self.hidden(((frames - self.mean) / self.std).to(self.dtype))
        if hidden.ndim == 4:
            grid = (hidden.shape[2], hidden.shape[3])
            return hidden.flatten(2).mT.float(), grid
        tokens = hidden[:, self.prefix :]
        assert tokens.shape[1] == grid[0] * grid[1], f"{self.name}: {tokens.shape[1]} tokens, grid {grid}"
        return tokens.float(), grid

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        first: Tensor = next(self.module.parameters())
        return first.dtype


def patch_ahead(config: MapConfig) -> int | None:
    """Pixels of a patch as far as they are known before anything loads."""
    if is_own(config):
        return None
    family: type[Backbone] = BACKBONES.find(config.backbone)
    return family.patch_ahead(config)


def is_own(config: MapConfig) -> bool:
    """Whether the backbone is none of ours."""
    return config.backbone not in BACKBONES.names()


def load(config: MapConfig, device: torch.device) -> Backbone:
    """The backbone of ours that a configuration names. Raises ConfigError where it cannot be had."""
    family: type[Backbone] = BACKBONES.find(config.backbone)
    return family.load(config, device)


def wanted(config: MapConfig) -> tuple[str, str, str, str | None]:
    """What the backbone reads: the key that names it, an id of the hub or a folder (empty: nothing that is
    known here), a file in it, the revision.
    """
    key = "advantage.map.backbone" + ("_path" if config.backbone_path else "")
    if is_own(config):
        return key, "", "", None
    family: type[Backbone] = BACKBONES.find(config.backbone)
    return key, *family.repository(config), config.backbone_revision


def weight_bytes(config: MapConfig) -> int | str:
    """Bytes of the backbone's weights, from its configuration files; or why they are not known."""
    if is_own(config):
        return "a class of your own may load anything"
    family: type[Backbone] = BACKBONES.find(config.backbone)
    try:
        module = family.skeleton(config)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        return f"its configuration cannot be read ({' '.join(str(error).split())[:120]})"
    module = module.to(getattr(torch, config.backbone_dtype))
    return sum(p.numel() * p.element_size() for p in module.parameters())


def needs_path(config: MapConfig, example: str) -> ConfigError:
    """The error for a backbone that is no particular checkpoint, without one such as `example`."""
    return ConfigError(
        mistake(
            f"advantage.map.backbone={config.backbone} opens any model of that library, and none is named",
            f"advantage.map.backbone_path={example}",
        )
    )
