"""Opening a diffusers pipeline: from the hub, from a folder, or from rlvis' assets (`asset:NAME`).

The family is checked on model_index.json alone, before any weight is read. Failures say what to do, since
most are a misspelt name, a gated repository or a machine without network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from rlvis.models import loading
from rlvis.models.shapes import open_shapes
from rlvis.named import one_line

ASSET = "asset:"


def resolve(path: str) -> str:
    """A hub id as it is; a folder with ~ expanded; `asset:NAME` as the folder that came with rlvis.

    Raises ValueError for an unknown asset, naming the known ones.
    """
    if not path.startswith(ASSET):
        return str(Path(path).expanduser()) if path.startswith("~") else path
    root = Path(str(files("rlvis"))) / "assets"
    folder = root / path.removeprefix(ASSET)
    if not (folder / "model_index.json").is_file():
        known = sorted(p.parent.name for p in root.glob("*/model_index.json"))
        raise ValueError(
            f"model.path={path}: there is no such policy in rlvis; known: "
            f"{', '.join(ASSET + name for name in known) or 'none'}"
        )
    return str(folder)


def open_pipeline(
    wanted: Sequence[str],
    path: str,
    revision: str | None,
    dtype: torch.dtype,
    accept: Callable[[Mapping[str, Any]], None] = lambda index: None,
    unused: Sequence[str] = (),
    shapes: bool = False,
) -> Any:
    """The stock pipeline at `path`, of one of the classes `wanted`, on the CPU, in `dtype` (autoencoder:
    float32).

    Only safetensors are read. Components that model_index.json calls null stay None.

    Args:
        accept: called with the content of model_index.json before any weight is read, to refuse a variant.
        unused: components to leave out, which are neither downloaded nor read.
        shapes: make every module on the meta device from its configuration; no weight is read.

    Raises:
        ValueError: nothing there, no access, files that cannot be read or do not fit each other, or a
            pipeline of another class.
    """
    import diffusers
    import transformers

    # Their bars over local files tear ours, and a truncated prompt is counted by us; the hub's download
    # bars stay.
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    where = resolve(path)
    try:
        index: Any = diffusers.DiffusionPipeline.load_config(where, revision=revision)
        kind = index.get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(failure(path, where, revision, error)) from error
    if kind not in wanted:
        raise ValueError(
            f"model.path={path} is a {kind}, but this model.family drives a {' or '.join(wanted)}; "
            "choose another model.family or model.path"
        )
    accept(index)
    # Stock from_pretrained wants to know what is null, unless the class calls it optional.
    absent: Any = {
        component: None
        for component, entry in index.items()
        if isinstance(entry, list) and (entry[0] is None or component in unused)
    }
    # The autoencoder stays in float32: rewards see its pixels, and it is small. So is a frame's encoder.
    dtypes = {"default": dtype, "vae": torch.float32, "image_encoder": torch.float32}
    try:
        if shapes:
            return open_shapes(kind, where, revision, index, absent, dtypes)
        with loading.lost_weights() as lost:
            pipe = getattr(diffusers, kind).from_pretrained(
                where, revision=revision, use_safetensors=True, dtype=dtypes, **absent
            )
    except Exception as error:  # libraries raise anything at files that do not fit each other
        raise ValueError(failure(path, where, revision, error)) from error
    loading.require_whole(pipe, path, lost)
    return pipe


def failure(path: str, where: str, revision: str | None, error: Exception) -> str:
    """What went wrong at `path`, and what to do about it."""
    reason = " ".join(str(error).split())[:300] if isinstance(error, OSError) else one_line(error)[:300]
    folder = Path(where)
    if folder.exists():
        return (
            f"model.path={path} is not a complete diffusers pipeline: {reason} -- it must hold "
            "model_index.json and components as safetensors, as `pipe.save_pretrained(folder)` writes them"
        )
    if folder.is_absolute() or path.startswith((".", "~")):
        return f"model.path={path}: there is no such folder"
    at = f" (revision {revision})" if revision else ""
    return (
        f"model.path={path}{at}: no such folder, and not available from the hub: {reason} -- check the name; "
        f"run `hf auth login` if the repository is gated; without network, run `hf download {path}` "
        "elsewhere and give the folder"
    )
