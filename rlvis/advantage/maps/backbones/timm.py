"""Any model of timm's: by its name, an id of the hub, or a folder with config.json and model.safetensors."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from rlvis.advantage.maps.backbone import Backbone, Layout, needs_path
from rlvis.advantage.maps.measure import measured
from rlvis.findings import ConfigError, mistake
from rlvis.schema import MapConfig

WEIGHTS = "model.safetensors"


class Timm(Backbone):
    """What the model calls its features, before pooling and head."""

    def layout(self) -> Layout:
        """Measured: names of patch sizes differ from model to model."""
        weight = next(self.module.parameters())

        def blank(height: int, width: int) -> Tensor:
            with torch.no_grad():
                return self.hidden(torch.zeros(1, 3, height, width, device=weight.device, dtype=weight.dtype))

        side = self.module.pretrained_cfg["input_size"][-1]
        try:
            return measured(blank, side, prefix=getattr(self.module, "num_prefix_tokens", 0))
        except (AssertionError, AttributeError, ValueError) as error:
            # The first two where it has no such layer, or keeps none of its layers' outputs.
            if self.layer is None and not isinstance(error, ValueError):
                raise
            layer = "" if self.layer is None else f" at advantage.map.layer={self.layer}"
            raise ConfigError(
                mistake(
                    f"{self.name} gives{layer} {error}",
                    "advantage.map.layer=null, or advantage.map.backbone_path=OTHER"
                    if layer
                    else "advantage.map.backbone_path=OTHER",
                )
            ) from error

    def hidden(self, pixels: Tensor) -> Tensor:
        """Tokens [n, L, D], or a feature map with its channels second."""
        if self.layer is not None:
            chosen: Tensor = self.module.forward_intermediates(
                pixels, indices=[self.layer], intermediates_only=True
            )[0]
            return chosen
        hidden: Tensor = self.module.forward_features(pixels)
        last = hidden.ndim == 4 and str(getattr(self.module, "output_fmt", "")).endswith("NHWC")
        return hidden.movedim(-1, 1) if last else hidden

    @classmethod
    def repository(cls, config: MapConfig) -> tuple[str, str]:
        """A name of timm's stands for the repository of its usual weights."""
        name = _name(config)
        if ":" in name:
            return name.partition(":")[2].partition("@")[0], WEIGHTS
        return _repository(name), WEIGHTS

    @classmethod
    def load(cls, config: MapConfig, device: torch.device) -> Self:
        """Raises ConfigError: timm knows no such model, or its weights cannot be had or do not fit."""
        module = _made(config, pretrained=True)
        module = module.to(device, getattr(torch, config.backbone_dtype)).eval().requires_grad_(False)
        cfg: Any = module.pretrained_cfg
        look, name = (tuple(cfg["mean"]), tuple(cfg["std"])), f"timm ({config.backbone_path})"
        return cls(module, device, *look, name, config.layer, config.enlarge)

    @classmethod
    def skeleton(cls, config: MapConfig) -> nn.Module:
        """As its configuration says."""
        with torch.device("meta"):
            return _made(config, pretrained=False)


def _name(config: MapConfig) -> str:
    """The model as timm calls it; of a name of its own the repository, where a revision is wanted."""
    path, revision = config.backbone_path, config.backbone_revision
    if path is None:
        raise needs_path(config, "resnet50")
    if path.startswith(("hf-hub:", "local-dir:")):
        name = path
    elif path.startswith((".", "/", "~")) or Path(path).is_dir():
        name = f"local-dir:{Path(path).expanduser()}"
    elif "/" in path:
        name = f"hf-hub:{path}"
    elif revision is None:
        return path
    else:
        name = f"hf-hub:{_repository(path)}"
    return f"{name}@{revision}" if revision and name.startswith("hf-hub:") else name


def _repository(name: str) -> str:
    """The repository that timm takes for a name of its own; empty where that has no weights on the hub.

    Raises ConfigError for a name that timm does not know.
    """
    import timm

    known = timm.list_models()
    if name.partition(".")[0] not in known:
        near = difflib.get_close_matches(name, known, 1, 0.5)
        raise ConfigError(
            mistake(
                f"advantage.map.backbone_path={name}: timm knows no such model, and there is no such folder",
                f"advantage.map.backbone_path={near[0] if near else 'NAME of timm.list_models()'}",
            )
        )
    return str(getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None) or "")


def _made(config: MapConfig, *, pretrained: bool) -> nn.Module:
    import timm

    name = _name(config)
    folder = name.partition(":")[2] if name.startswith("local-dir:") else None
    if pretrained and folder is not None and not (Path(folder) / WEIGHTS).is_file():
        raise ConfigError(
            mistake(
                f"advantage.map.backbone=timm at {folder}: there is no {WEIGHTS} beside a config.json",
                why="timm.models.save_for_hf(model, folder, safe_serialization=True) writes both",
            )
        )
    # A file that is no pickle; a folder is known to have one.
    overlay = {"hf_hub_filename": WEIGHTS} if pretrained and folder is None else None
    options: dict[str, Any] = {"pretrained": pretrained, "num_classes": 0, "pretrained_cfg_overlay": overlay}
    try:
        try:
            return timm.create_model(name, **options, dynamic_img_size=True)
        except TypeError:  # a model whose frames have one size, or any without being asked
            return timm.create_model(name, **options)
    except Exception as error:  # timm and the hub raise whatever they meet
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ConfigError(
            mistake(
                f"advantage.map.backbone=timm cannot open {config.backbone_path}: {reason}",
                "advantage.map.backbone_path=NAME of timm.list_models(), hf-hub:OWNER/NAME, or a folder",
            )
        ) from error


ENTRY = Timm
