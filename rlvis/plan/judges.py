"""Weights of the models that judge samples, from their configuration files: reward models and map backbone.

Only weights: what their forwards allocate is not counted, and a function of the user's own is not looked
into. What cannot be counted is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from rlvis.advantage.maps import backbone
from rlvis.plan.count import size
from rlvis.reward.scorer import KNOWN
from rlvis.reward.scorers import clip
from rlvis.schema import Config, Executor, MapConfig, MapSource

# Scorers that put no model of their own on the GPU.
WEIGHTLESS = (
    *("checker", "coverage", "intact", "jpeg_compressibility", "jpeg_incompressibility"),
    *("ocr", "remote", "vlm"),
)
# Parameters of published judges, counted once from their architectures, and the precision they take.
PUBLISHED = {
    "hpsv2": (986_109_441, "fp32"),  # amp keeps float32 weights
    "imagereward": (446_206_689, "fp32"),
    "pickscore": (986_109_441, "fp32"),  # the same CLIP H/14
}


@dataclass(frozen=True)
class Judges:
    """weights: (name, bytes on the GPU). uncounted: what is not among them, in words."""

    weights: tuple[tuple[str, int], ...]
    uncounted: tuple[str, ...]


def judges(config: Config) -> Judges:
    """The judges of a run."""
    weights, uncounted = [], []
    elsewhere = config.reward.executor in (Executor.http, Executor.ray)
    for name, term in config.reward.terms.items() if not elsewhere else ():
        count = _scorer(term.scorer, term.kwargs)
        if isinstance(count, str):
            uncounted.append(f"reward {name} ({term.scorer}): {count}")
        elif count:
            weights.append((f"reward {name}", count))
    map_ = config.advantage.map
    if map_.source is not MapSource.none:
        count = _backbone(map_)
        if isinstance(count, str):
            uncounted.append(f"map backbone {map_.backbone.value}: {count}")
        else:
            weights.append(("map backbone", count))
    if weights or uncounted:
        uncounted.append("activations of reward models and of the map's backbone")
    return Judges(tuple(weights), tuple(uncounted))


def _scorer(scorer: str, kwargs: Mapping[str, Any]) -> int | str:
    """Bytes of a scorer's weights, or why they are not known."""
    if scorer in WEIGHTLESS:
        return 0
    if scorer == "noisy":
        return _scorer(str(kwargs.get("scorer", "")), kwargs.get("kwargs") or {})
    if scorer in PUBLISHED:
        count, usual = PUBLISHED[scorer]
        return count * (2 if kwargs.get("precision", usual) in ("bf16", "fp16") else 4)
    if scorer in KNOWN and scorer != "clip":
        return "its weights are not counted"
    if scorer != "clip":
        return "a function of your own may load anything"
    import open_clip

    try:
        name = clip.source(str(kwargs.get("path", "")), kwargs.get("pretrained"))
        model = open_clip.create_model(name, device="meta", load_weights=False)
    except (RuntimeError, OSError, ValueError) as error:
        return f"its configuration cannot be read ({_short(error)})"
    count = int(sum(p.numel() for p in model.parameters()))
    return count * (4 if kwargs.get("precision", "fp32") == "fp32" else 2)


def _backbone(map_: MapConfig) -> int | str:
    import transformers

    try:
        path = backbone.place(map_.backbone, map_.backbone_path)
        config = transformers.AutoConfig.from_pretrained(path, revision=map_.backbone_revision)
        kind = getattr(transformers, backbone.CLASSES[config.model_type])
        with torch.device("meta"):
            model = kind._from_config(getattr(config, "vision_config", config))
    except (OSError, ValueError, KeyError) as error:
        return f"its configuration cannot be read ({_short(error)})"
    return size(model.to(getattr(torch, map_.backbone_dtype.value)).parameters())


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
