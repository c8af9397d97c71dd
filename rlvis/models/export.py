"""Writing a trained policy as stock diffusers files: the whole pipeline, and a short card that says how to
open it.

The trained weights come by name, from float32 masters or an average, and the module in memory is never
changed: a twin without storage takes them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlvis.models import comfy, lora, moved
from rlvis.models.family import Family
from rlvis.models.source import ASSET
from rlvis.schema import Condition


def checked(
    trained: Sequence[tuple[str, nn.Parameter]], weights: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """The trained tensors on the CPU, from `weights` or from the parameters; ValueError when names differ."""
    if weights is None:
        return {name: p.detach().cpu().contiguous() for name, p in trained}
    wanted = {name for name, _ in trained}
    odd = sorted(wanted ^ set(weights))
    if odd:
        raise ValueError(
            f"export: {len(weights)} weights for {len(wanted)} trained parameters; {len(odd)} names are "
            f"missing or unknown, the first is {odd[0]}"
        )
    return {name: weights[name].detach().cpu().contiguous() for name, _ in trained}


def save_pipeline(pipe: Any, states: Mapping[str, Mapping[str, Tensor]], folder: Path) -> None:
    """Save every component of `pipe`; states: component -> its trained parameters.

    A trained component keeps the dtypes it was loaded in (some families keep a few layers in float32).
    """
    twins = {name: _twin(getattr(pipe, name), state) for name, state in states.items()}
    # A pipeline has options beside its components (Wan's expand_timesteps), and a new one would forget them.
    options = {
        key: pipe.config[key]
        for key in inspect.signature(type(pipe).__init__).parameters
        if key in pipe.config and key not in pipe.components
    }
    type(pipe)(**(pipe.components | twins), **options).save_pretrained(folder)


def _twin(module: Any, state: Mapping[str, Tensor]) -> Any:
    """The module with the parameters of `state`, beside the one in memory."""
    with torch.device("meta"):
        twin = type(module).from_config(module.config)
    loaded = module.state_dict()
    whole = {key: value.detach().cpu() for key, value in loaded.items() if key not in state}
    whole |= {key: value.to(loaded[key].dtype) for key, value in state.items()}
    twin.load_state_dict(whole, assign=True)
    return twin


def write_card(
    policy: Family, folder: Path, distance: float, waiting: Sequence[str] = (), *, lacking: str = ""
) -> None:
    """Write folder/README.md: the lines that open the weights, with the settings they were trained at.

    The base checkpoint is named only where it is needed for that.

    Args:
        distance: how far the weights lie from where they began.
        waiting: components that the pipeline may lack for now, and the checkpoint has.
        lacking: why there is no file for ComfyUI.
    """
    config = policy.config
    call = ", ".join(f"{key}={value!r}" for key, value in policy.call_settings().items())
    start = "YOUR_FRAME, " if config.condition is Condition.first_frame else ""
    code = "\n".join([*_opening(policy, waiting), f'pipe({start}"YOUR PROMPT", {call})'])
    rank = None if config.lora is None else config.lora.rank
    what = "A whole model" if rank is None else f"A LoRA of rank {rank}"
    parts = [f"{what}, trained by reinforcement learning with rlvis. To open it:", f"```python\n{code}\n```"]
    if rank is not None:
        parts.append(_programs(policy, lacking))
    parts.append(f"The exported weights {moved.words(distance)}.")
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _opening(policy: Family, waiting: Sequence[str]) -> list[str]:
    """Lines of Python that make `pipe`."""
    pipe, config, name = policy.pipe, policy.config, policy.stock_name
    # Stock from_pretrained refuses a null component that nobody named.
    absent = [
        key
        for key, value in pipe.components.items()
        if value is None and key not in pipe._optional_components and key not in waiting
    ]
    options = "".join([f", dtype=torch.{config.dtype}", *(f", {key}=None" for key in absent)])
    lines = ["import torch", f"from diffusers import {name}"]
    if config.lora is None:
        return [*lines, "", f'pipe = {name}.from_pretrained("THIS_FOLDER"{options})']
    base = repr(config.path)
    if config.path.startswith(ASSET):
        lines.append("from rlvis.models.source import resolve")
        base = f"resolve({config.path!r})"
    revision = f", revision={config.revision!r}" if config.revision else ""
    lines += ["", f"pipe = {name}.from_pretrained({base}{revision}{options})"]
    for keywords in policy.lora_settings():
        more = "".join(f", {key}={value!r}" for key, value in keywords.items())
        lines.append(f'pipe.load_lora_weights("THIS_FOLDER"{more})')
    return lines


def _programs(policy: Family, lacking: str) -> str:
    """What opens the files of a LoRA, and at which strength."""
    several = len(policy.denoisers()) > 1
    first = " and ".join(lora.FILES[: 1 + several])
    if lacking:
        other = f"There is no file for ComfyUI: {lacking}."
    elif several:
        other = (
            f"ComfyUI takes {comfy.FILES[0]} for the model of high noise and {comfy.FILES[1]} for low noise."
        )
    else:
        other = f"ComfyUI takes {comfy.FILES[0]}."
    return (
        "Strength 1 is what was trained and 0 the base model, in every program: the scale is in the weights, "
        f"with alpha = rank. diffusers takes {first} (0.32 and later, where it has this pipeline; any peft). "
        f"{other}"
    )
