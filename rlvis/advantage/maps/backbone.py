"""Patch features of a vision backbone: DINOv2, DINOv3, ResNet, SAM, SigLIP, or a tiny one that comes with
rlvis.

Any Hugging Face checkpoint of those families, safetensors only. Frames are taken at their own size, rounded
down to the patch, where the class can interpolate its position embeddings; otherwise (SAM) they are resized
to the size it was trained on, which the map's way back to the latent grid undoes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlvis.schema import Dtype, MapBackbone

log = logging.getLogger(__name__)

CHECKPOINTS = {
    MapBackbone.dinov2: "facebook/dinov2-large",  # ViPO's choice
    MapBackbone.dinov3: "facebook/dinov3-vitl16-pretrain-lvd1689m",
    MapBackbone.resnet: "microsoft/resnet-50",
    MapBackbone.sam: "facebook/sam-vit-large",
    MapBackbone.siglip: "google/siglip-base-patch16-224",
}
# transformers' model_type -> class that gives features without a head.
CLASSES = {
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
    "resnet": "ResNetModel",
    "sam": "SamVisionModel",
    "sam_vision_model": "SamVisionModel",
    "siglip": "SiglipVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
}
FAMILIES = {
    MapBackbone.dinov2: ("dinov2", "dinov2_with_registers"),
    MapBackbone.dinov3: ("dinov3_vit",),
    MapBackbone.resnet: ("resnet",),
    MapBackbone.sam: ("sam", "sam_vision_model"),
    MapBackbone.siglip: ("siglip", "siglip_vision_model"),
    MapBackbone.tiny: ("dinov2",),
}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LEAST = 2  # patches along each side: fewer have no structure


@dataclass(frozen=True)
class Backbone:
    """A frozen vision model on a device.

    module: the model. patch: pixels a grid cell. prefix: tokens before the patches (CLS, registers). fixed:
    the only size (Y, X) it takes, or None. mean, std: [3, 1, 1], of its normalisation.
    """

    module: Any
    patch: int
    prefix: int
    fixed: tuple[int, int] | None
    mean: Tensor
    std: Tensor
    name: str

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Cells (gh, gw) for frames of that size. Raises ValueError where frames are smaller than 2 x 2
        patches.
        """
        high, wide = self.fixed or (height, width)
        grid = (high // self.patch, wide // self.patch)
        if min(grid) < LEAST:
            near = tuple(max(LEAST, round(side / self.patch)) * self.patch for side in (height, width))
            raise ValueError(
                f"frames of {height} x {width} pixels give {self.name}, whose patches are "
                f"{self.patch} pixels, a grid "
                f"of {grid[0]} x {grid[1]}; a map needs at least {LEAST} x {LEAST}; the nearest size is "
                f"model.height={near[0]} model.width={near[1]}, or take advantage.map.backbone=tiny"
            )
        return grid

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """frames [n, 3, Y, X] float in [0, 1] -> tokens [n, gh * gw, D] float32 and (gh, gw)."""
        grid = self.grid(*frames.shape[-2:])
        size = (grid[0] * self.patch, grid[1] * self.patch)
        if frames.shape[-2:] != size:
            frames = F.interpolate(frames, size=size, mode="bilinear", align_corners=False, antialias=True)
        pixels = ((frames - self.mean) / self.std).to(self.module.dtype)
        known = (
            {"interpolate_pos_encoding": True} if self.module.config.model_type.startswith("siglip") else {}
        )
        hidden = self.module(pixel_values=pixels, **known).last_hidden_state
        if hidden.ndim == 4:
            grid = (hidden.shape[2], hidden.shape[3])
            return hidden.flatten(2).mT.float(), grid
        tokens = hidden[:, self.prefix :]
        assert tokens.shape[1] == grid[0] * grid[1], f"{self.name}: {tokens.shape[1]} tokens, grid {grid}"
        return tokens.float(), grid


def load(
    backbone: MapBackbone,
    path: str | None,
    revision: str | None,
    dtype: Dtype = Dtype.float32,
    device: torch.device | str = "cpu",
) -> Backbone:
    """The backbone at `path` (null: its usual checkpoint), frozen, in evaluation mode.

    Raises ValueError: nothing there, no safetensors, or a model of another family.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    where = place(backbone, path)
    try:
        config = transformers.AutoConfig.from_pretrained(where, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(_failure(backbone, where, revision, error)) from error
    kind = config.model_type
    if kind not in FAMILIES[backbone]:
        raise ValueError(
            f"advantage.map.backbone_path={path} is a {kind}, but "
            f"advantage.map.backbone={backbone.value} takes "
            f"{' or '.join(FAMILIES[backbone])}; choose another advantage.map.backbone or "
            "advantage.map.backbone_path"
        )
    try:
        module, report = getattr(transformers, CLASSES[kind]).from_pretrained(
            where,
            revision=revision,
            use_safetensors=True,
            dtype=getattr(torch, dtype.value),
            output_loading_info=True,
        )
    except OSError as error:
        raise ValueError(_failure(backbone, where, revision, error)) from error
    if report["missing_keys"]:  # transformers fills them at random: a map of noise
        raise ValueError(
            f"advantage.map.backbone={backbone.value} at {where} lacks {len(report['missing_keys'])} "
            "weights of a "
            f"{CLASSES[kind]}, the first {min(report['missing_keys'])}; type another "
            "advantage.map.backbone_path"
        )
    module = module.to(device).eval().requires_grad_(False)
    mean, std = _normalisation(where, revision)
    return wrap(module, device, mean, std, name=f"{backbone.value} ({where})")


def wrap(
    module: Any,
    device: torch.device | str = "cpu",
    mean: tuple[float, ...] = IMAGENET[0],
    std: tuple[float, ...] = IMAGENET[1],
    name: str = "the backbone",
) -> Backbone:
    """A loaded model of one of the families, with what its configuration says of patches and prefix."""
    config = module.config
    kind = config.model_type
    patch = 32 if kind == "resnet" else int(config.patch_size)
    if kind == "resnet" and config.downsample_in_first_stage:
        patch *= 2
    prefix = 1 + getattr(config, "num_register_tokens", 0) if kind.startswith("dino") else 0
    fixed = (config.image_size, config.image_size) if kind.startswith("sam") else None

    def column(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, device=device)[:, None, None]

    return Backbone(module, patch, prefix, fixed, column(mean), column(std), name)


def place(backbone: MapBackbone, path: str | None) -> str:
    if path is not None:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    if backbone is MapBackbone.tiny:
        return str(Path(str(files("rlvis"))) / "assets" / "tiny_backbone")
    return CHECKPOINTS[backbone]


def _normalisation(where: str, revision: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of the checkpoint's own image processor; ImageNet's where it has none."""
    from transformers.image_processing_utils import BaseImageProcessor

    try:
        processor, _ = BaseImageProcessor.get_image_processor_dict(where, revision=revision)
    except OSError:
        log.info("%s has no image processor: ImageNet's normalisation", where)
        return IMAGENET
    return tuple(processor.get("image_mean", IMAGENET[0])), tuple(processor.get("image_std", IMAGENET[1]))


def _failure(backbone: MapBackbone, where: str, revision: str | None, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300]
    at = f" (revision {revision})" if revision else ""
    if Path(where).exists():
        return (
            f"advantage.map.backbone={backbone.value} at {where} is not complete: {reason} -- it must "
            "hold config.json "
            "and model.safetensors, as `model.save_pretrained(folder)` writes them"
        )
    return (
        f"advantage.map.backbone={backbone.value} at {where}{at}: no such folder, and not available "
        "from the hub: "
        f"{reason} -- check the name; run `hf auth login` if the repository is gated; without network, run "
        f"`hf download {where}` elsewhere and type advantage.map.backbone_path=FOLDER"
    )
