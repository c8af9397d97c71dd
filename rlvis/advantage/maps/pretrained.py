"""Backbones that transformers loads: what their families share."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from rlvis.advantage.maps.backbone import IMAGENET, Backbone, Layout
from rlvis.findings import ConfigError, mistake
from rlvis.schema import MapConfig

log = logging.getLogger(__name__)


class Pretrained(Backbone):
    """A checkpoint of one family, by the class that gives features without a head.

    classes: transformers' model_type -> its class. more: further arguments of its forward.
    """

    classes: ClassVar[Mapping[str, str]] = {}
    more: ClassVar[Mapping[str, Any]] = {}

    def layout(self) -> Layout:
        """Patches alone, at any size."""
        return Layout(int(self.module.config.patch_size))

    def hidden(self, pixels: Tensor) -> Tensor:
        """Of the last layer, or of the one that advantage.map.layer names."""
        return self.read(pixels, self.more)

    def read(self, pixels: Tensor, more: Mapping[str, Any]) -> Tensor:
        """One forward, with further arguments."""
        if self.layer is None:
            hidden: Tensor = self.module(pixel_values=pixels, **more).last_hidden_state
            return hidden
        layers = self.module(pixel_values=pixels, output_hidden_states=True, **more).hidden_states
        return self.as_tokens(layers[self.layer])

    def as_tokens(self, hidden: Tensor) -> Tensor:
        """A layer's output in the form of `hidden`."""
        return hidden

    @classmethod
    def patch_ahead(cls, config: MapConfig) -> int | None:
        """Of the usual checkpoint, or from the config.json of a folder."""
        file = Path(cls.repository(config)[0], "config.json")
        if not file.is_file():
            return super().patch_ahead(config)
        try:
            read = json.loads(file.read_text(encoding="utf-8"))
            return cls.patch_in(read.get("vision_config", read), config.layer)
        except (OSError, ValueError, AttributeError):  # told where it is loaded
            return None

    @classmethod
    def patch_in(cls, read: Mapping[str, Any], layer: int | None) -> int | None:
        """Pixels of a patch from the content of config.json."""
        size = read.get("patch_size")
        return size if isinstance(size, int) and size > 0 else None

    @classmethod
    def repository(cls, config: MapConfig) -> tuple[str, str]:
        """The folder or repository of its configuration."""
        path = config.backbone_path or cls.usual
        return str(Path(path).expanduser()) if path.startswith("~") else path, "config.json"

    @classmethod
    def load(cls, config: MapConfig, device: torch.device) -> Self:
        """Raises ConfigError: nothing there, no safetensors, a model of another family, missing weights."""
        import transformers

        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        where, revision = cls.repository(config)[0], config.backbone_revision
        try:
            read = transformers.AutoConfig.from_pretrained(where, revision=revision)
            opener, options = cls.opener(read, config)
            module, report = opener.from_pretrained(
                where,
                revision=revision,
                use_safetensors=True,
                dtype=getattr(torch, config.backbone_dtype),
                output_loading_info=True,
                **options,
            )
        except ConfigError:
            raise
        except (OSError, ValueError) as error:
            raise ConfigError(_failure(config, where, error)) from error
        if missing := [name for name in report["missing_keys"] if cls.reads(name)]:
            raise ConfigError(  # transformers fills them at random: a map of noise
                mistake(
                    f"advantage.map.backbone={config.backbone} at {where} lacks {len(missing)} weights of a "
                    f"{type(module).__name__}, the first {min(missing)}",
                    "advantage.map.backbone_path=OTHER",
                )
            )
        module = module.to(device).eval().requires_grad_(False)
        name = f"{config.backbone} ({where})"
        _has_layer(module.config, config.layer, name)
        look = _normalisation(where, revision)
        return cls(module, device, *look, name=name, layer=config.layer, enlarge=config.enlarge)

    @classmethod
    def skeleton(cls, config: MapConfig) -> nn.Module:
        """From config.json."""
        import transformers

        where = cls.repository(config)[0]
        read = transformers.AutoConfig.from_pretrained(where, revision=config.backbone_revision)
        opener, _ = cls.opener(read, config)
        make = getattr(opener, "from_config", None) or opener._from_config  # AutoModel's, a model's
        with torch.device("meta"):
            module: nn.Module = make(getattr(read, "vision_config", read))
        return module

    @classmethod
    def opener(cls, read: Any, config: MapConfig) -> tuple[Any, dict[str, Any]]:
        """The class that opens what has the configuration `read`, and its further arguments."""
        import transformers

        kind = read.model_type
        if kind not in cls.classes:
            raise ConfigError(
                mistake(
                    f"advantage.map.backbone_path={config.backbone_path} is a {kind}, but "
                    f"advantage.map.backbone={config.backbone} takes {' or '.join(cls.classes)}",
                    "advantage.map.backbone=transformers, or another advantage.map.backbone_path",
                )
            )
        return getattr(transformers, cls.classes[kind]), {}

    @classmethod
    def reads(cls, weight: str) -> bool:
        """Whether features depend on the weight of that name."""
        return True


def _has_layer(read: Any, layer: int | None, name: str) -> None:
    """Raises ConfigError where advantage.map.layer lies behind the last that the model says to have."""
    last = getattr(read, "num_hidden_layers", None) or len(getattr(read, "depths", None) or ())
    if layer is not None and last and layer > last:
        raise ConfigError(
            mistake(
                f"advantage.map.layer={layer}: {name} has {last} layers or stages",
                f"advantage.map.layer={last}",
            )
        )


def _normalisation(where: str, revision: str | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of the checkpoint's own image processor; ImageNet's where it has none."""
    from transformers.image_processing_utils import BaseImageProcessor

    try:
        processor, _ = BaseImageProcessor.get_image_processor_dict(where, revision=revision)
    except OSError:
        log.info("%s has no image processor: ImageNet's normalisation", where)
        return IMAGENET
    return tuple(processor.get("image_mean", IMAGENET[0])), tuple(processor.get("image_std", IMAGENET[1]))


def _failure(config: MapConfig, where: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300]
    at = f" (revision {config.backbone_revision})" if config.backbone_revision else ""
    if Path(where).exists():
        return (
            f"advantage.map.backbone={config.backbone} at {where} is not complete: {reason} -- it must "
            "hold config.json "
            "and model.safetensors, as `model.save_pretrained(folder)` writes them"
        )
    return (
        f"advantage.map.backbone={config.backbone} at {where}{at}: no such folder, and not available "
        "from the hub: "
        f"{reason} -- check the name; run `hf auth login` if the repository is gated; without network, run "
        f"`hf download {where}` elsewhere and type advantage.map.backbone_path=FOLDER"
    )
