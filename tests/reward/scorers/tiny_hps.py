"""HPSv2's two files as published, of an open_clip network of tiny width that open_clip knows meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch

from rlvis.reward.scorers.hpsv2 import FILES

NAME = "tiny-hps"
CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def network(seed: int) -> Any:
    """The network; call it while open_clip knows NAME."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.create_model(NAME).eval()
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.2)
    return model


@contextmanager
def saved(folder: Path) -> Iterator[Path]:
    """Both files as published: a pickle of {"state_dict": tensors}. Afterwards open_clip forgets NAME."""
    folder.mkdir(exist_ok=True)
    config = folder / f"{NAME}.json"
    config.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(config)
    for seed, name in enumerate(FILES.values()):
        torch.save({"state_dict": network(seed).state_dict()}, folder / f"{name}.pt")
    yield folder
    config.unlink()
    open_clip.factory._MODEL_CONFIGS.pop(NAME)
