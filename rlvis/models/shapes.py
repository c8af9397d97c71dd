"""A stock pipeline without weights: every module on the meta device, from configuration files alone.

Shapes and dtypes are those that `from_pretrained` would give, so parameters can be counted and forwards can
be run for their memory, and no weight is downloaded or read. Tokenizers and schedulers are the real ones.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn


def open_shapes(
    name: str,
    where: str,
    revision: str | None,
    index: Mapping[str, Any],
    absent: Iterable[str],
    dtypes: Mapping[str, torch.dtype],
) -> Any:
    """The pipeline of class `name` with modules on the meta device.

    Args:
        where: hub id or folder.
        index: content of its model_index.json.
        absent: components to leave None.
        dtypes: component -> dtype; "default" for those that are not named.

    Raises:
        OSError: a configuration or tokenizer file is missing.
        ValueError: a component of a class that the installed libraries do not have.
    """
    import diffusers

    kind = getattr(diffusers, name)
    named = [key for key, entry in index.items() if isinstance(entry, list) and not key.startswith("_")]
    parts: dict[str, Any] = dict.fromkeys(named)
    for part in set(named) - set(absent):
        library, class_name = index[part]
        dtype = dtypes.get(part, dtypes["default"])
        parts[part] = _component(_class(library, class_name, part), where, revision, part, dtype)
    options = {
        key: index[key]
        for key in inspect.signature(kind.__init__).parameters
        if key in index and key not in parts
    }
    return kind(**parts, **options)


def denoiser(where: str, part: str) -> nn.Module | None:
    """One of the diffusers models of the folder `where`, without weights; None where it has no such model.

    Raises ValueError for a class that the installed diffusers does not have.
    """
    folder = Path(where)
    if not (folder / part / "config.json").is_file() or not (folder / "model_index.json").is_file():
        return None
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    library, name = index[part]
    module: nn.Module = _component(_class(library, name, part), where, None, part, torch.float32)
    return module


def _class(library: str, name: str, part: str) -> Any:
    modules = [library] if library in ("diffusers", "transformers") else [f"diffusers.pipelines.{library}"]
    kind = getattr(import_module(modules[0]), name, None)
    if kind is None:
        raise ValueError(
            f"model_index.json wants {library}.{name} as {part}, which the installed {library} does not have"
        )
    return kind


def _component(kind: Any, where: str, revision: str | None, part: str, dtype: torch.dtype) -> Any:
    """One component: a module without storage, or the real tokenizer, scheduler, processor."""
    import diffusers
    import transformers

    source = {"subfolder": part, "revision": revision}
    bases = inspect.getmro(kind) if inspect.isclass(kind) else ()
    if diffusers.ModelMixin in bases:
        with torch.device("meta"):
            module = kind.from_config(kind.load_config(where, **source))
        return cast(module, dtype, kind._keep_in_fp32_modules or ())
    if transformers.PreTrainedModel in bases:
        config = kind.config_class.from_pretrained(where, **source)
        with torch.device("meta"):
            # Eager: the other forms look at the values of the mask, and there are none.
            module = kind._from_config(config, attn_implementation="eager")
        kept = set(module._keep_in_fp32_modules_strict or ())
        if dtype is torch.float16:
            kept |= set(module._keep_in_fp32_modules or ())
        return cast(module, dtype, kept)
    return kind.from_pretrained(where, **source)


def cast(module: nn.Module, dtype: torch.dtype, kept: Iterable[str]) -> nn.Module:
    """Give every floating parameter `dtype`, float32 where a part of its name is in `kept`; in place."""
    keep = set(kept)
    for name, parameter in module.named_parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.float32 if keep & set(name.split(".")) else dtype)
    return module
