"""Weights of scorers from a folder, a file or a hub repository, and what they run on and in.

Unusual: pickles are read with `weights_only` alone, so that a checkpoint cannot run code; what a state dict
lacks or has too much of is an error with its names, since a scorer with random layers still gives numbers.
Every failure is a ValueError in one line that says what to type.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlvis.reward import hub

if TYPE_CHECKING:
    from torch import nn

GLOBAL = re.compile(r"GLOBAL ([\w.]+)")  # what the reader of pickles refuses, in its error
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def device(name: str | None = None) -> torch.device:
    """The device called `name`; None: the GPU where there is one. Raises ValueError when it is not there."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = hub.line(error)
        raise ValueError(f"device={name} is not available: {reason}; null takes what there is") from error
    return device


def dtype(precision: str) -> torch.dtype:
    """Of fp32, bf16 or fp16. Raises ValueError for another word."""
    if precision not in DTYPES:
        raise ValueError(f"precision={precision!r}: wanted {', '.join(DTYPES)}")
    return DTYPES[precision]


def gpu_bytes(parameters: int, precision: str) -> int:
    """Of a model with so many parameters."""
    return parameters * (2 if precision.endswith(("bf16", "fp16")) else 4)


def file(source: str, name: str | Sequence[str], revision: str | None = None) -> Path:
    """A file of a folder or of a hub repository, on this machine after the call.

    Args: source, OWNER/NAME, a folder, or the file itself; name, what it is called there, or several names of
    which the first that exists is taken (safetensors before a pickle); revision, a commit, tag or branch of
    the hub, None: what is newest. Raises ValueError: no such folder, file, repository or revision, no
    access, no network.
    """
    names = [name] if isinstance(name, str) else list(name)
    place = hub.local(source)
    if place is not None:
        if place.is_file():
            return place
        for one in names:
            if (place / one).is_file():
                return place / one
        held = ", ".join(sorted(p.name for p in place.iterdir())[:8]) or "nothing"
        raise ValueError(f"{source} has no {' or '.join(names)}; the folder holds {held}")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    for one in names:
        try:
            return hub.noted(source, Path(hf_hub_download(source, one, revision=revision)))
        except EntryNotFoundError as error:  # there, or without network in the cache
            if one == names[-1]:
                raise ValueError(hub.failure(source, names, revision, error)) from error
        except (OSError, ValueError) as error:
            raise ValueError(hub.failure(source, names, revision, error)) from error
    raise AssertionError("file() without a name")


def folder(source: str, revision: str | None = None, patterns: Sequence[str] | None = None) -> Path:
    """A folder, or the files of a hub repository that match `patterns` (None: all), as a folder.

    Raises ValueError as `file` does, also when a local source is no folder or nothing matches.
    """
    place = hub.local(source)
    if place is None:
        from huggingface_hub import snapshot_download

        wanted = None if patterns is None else list(patterns)
        try:
            place = hub.noted(
                source, Path(snapshot_download(source, revision=revision, allow_patterns=wanted))
            )
        except (OSError, ValueError) as error:
            raise ValueError(hub.failure(source, patterns or (), revision, error)) from error
    if not place.is_dir():
        raise ValueError(f"{source} is a file; give the folder it lies in")
    if patterns is not None and not any(next(place.glob(p), None) for p in patterns):
        raise ValueError(f"{source} has none of {', '.join(patterns)}")
    return place


def state_dict(path: str | Path, key: str | None = None) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, of a .safetensors file or of a pickle by torch.save.

    key: the entry under which the tensors lie, where there is one. Raises ValueError when the file is
    damaged, holds anything that could run code, or something else than tensors.
    """
    place = Path(path)
    if what := _no_weights(place):
        raise ValueError(f"{place} is {what}, and no file of tensors; fetch it again")
    try:
        if place.suffix == ".safetensors":
            from safetensors.torch import load_file

            held: object = load_file(place)
        else:
            with warnings.catch_warnings(action="ignore"):  # that a pickle is not of torch's usual protocol
                held = torch.load(place, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = GLOBAL.search(str(error))
        raise ValueError(
            f"{place} is no file of tensors by torch.save, or holds Python objects beside them"
            f"{f' ({found.group(1)})' if found else ''}, which could run code and are not read; where you "
            "trust it, save its state dict as safetensors"
        ) from error
    except Exception as error:  # the readers of both formats raise what they like on a damaged file
        raise ValueError(f"{place} cannot be read: {hub.line(error)}; fetch it again") from error
    if key is not None and isinstance(held, Mapping) and key in held:
        held = held[key]
    wrong = (
        [str(k) for k, v in held.items() if not isinstance(v, Tensor)] if isinstance(held, dict) else ["it"]
    )
    if wrong or not held:
        raise ValueError(f"{place} is no state dict: {wrong[:3] or 'nothing in it'} is no tensor")
    assert isinstance(held, dict)
    return held


def _no_weights(place: Path) -> str:
    """What a file is by its first bytes, where that is something that often lies in the place of weights."""
    try:
        with place.open("rb") as file:
            begin = file.read(64)
    except OSError:
        return ""
    if not begin:
        return "empty"
    if begin.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS (git lfs pull fetches what it stands for)"
    return "a web page" if begin.lstrip().startswith(b"<") else ""


def load(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load all of `state` into `module`; what: their name in the error.

    Raises ValueError for a missing or unexpected name or another shape, with the first few.
    """
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    missing = [name for name in wanted if name not in state]
    extra = [name for name in state if name not in wanted]
    shapes = [
        f"{name} {list(state[name].shape)} for {list(shape)}"
        for name, shape in wanted.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    faults = {"lacks": missing, "has too much": extra, "has other shapes": shapes}
    text = "; ".join(
        f"{verb} {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        for verb, names in faults.items()
        if names
    )
    if text:
        raise ValueError(f"{what} does not fit {type(module).__name__}: it {text}")
    module.load_state_dict(state)


def quiet() -> None:
    """Silence transformers: its bars and tables tear our output; what matters of the tables is an error."""
    from transformers.utils import logging as theirs

    untyped: Any = theirs
    untyped.disable_progress_bar()
    untyped.set_verbosity_error()


def pretrained(kind: Any, source: str, place: Path, precision: str = "fp32", **options: Any) -> Any:
    """A frozen transformers model of class `kind` from the safetensors in the folder `place`, on the CPU.

    source: what errors call it; options: further ones of from_pretrained. Raises ValueError when a file is
    missing or does not fit, and, unlike from_pretrained, when a parameter has no weight in it.
    """
    quiet()
    try:
        model, report = kind.from_pretrained(
            place, dtype=dtype(precision), use_safetensors=True, output_loading_info=True, **options
        )
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(f"{source} is no complete {kind.__name__}: {hub.line(error)}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"{source} is no complete {kind.__name__}: it has no weights for {len(missing)} parameters, "
            f"the first {missing[0]}"
        )
    return model.eval().requires_grad_(False)


def processor(place: Path, what: str) -> tuple[Any, Any]:
    """The processor in the folder `place`, which pads on the right, and the configuration beside it.

    what: whose, in the error. Raises ValueError when there is none.
    """
    from transformers import AutoConfig, AutoProcessor

    kind: Any = AutoProcessor
    try:
        return kind.from_pretrained(place, padding_side="right"), AutoConfig.from_pretrained(place)
    except (OSError, ValueError) as error:
        raise ValueError(f"{what} has no processor: {hub.line(error)}") from error


def tokenizer(kind: str, source: str, revision: str | None = None) -> Any:
    """The tokenizer of transformers' class `kind` in a folder or repository, without its weights.

    Raises ValueError as `folder` does, and when its files are missing.
    """
    import transformers

    place = folder(source, revision, ["*.json", "*.txt", "*.model"])
    # Without a vocabulary transformers makes an empty one, and every text means the same.
    if not any(next(place.glob(name), None) for name in VOCABULARIES):
        raise ValueError(f"{source} holds no {kind}: none of {', '.join(VOCABULARIES)} is there")
    try:
        return getattr(transformers, kind).from_pretrained(place)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{source} holds no {kind}: {hub.line(error)}") from error
