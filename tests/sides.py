"""What an adapter and the stock pipeline make of the same noise: the two sides that kit.py compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlvis.flow import transition
from rlvis.flow.kernel import Kernel
from rlvis.flow.transition import StepTable
from rlvis.models.policy import Policy
from rlvis.models.source import resolve
from rlvis.records import Schedule

TEXTS = ("a red circle", "a blue square", "a ring")
STEPS = 3


def embedded(policy: Policy, texts: Sequence[str] = TEXTS) -> tuple[dict[str, Tensor], Tensor | None]:
    """Embeddings of the texts, and the condition frames uint8 [P,3,Y,X] that they start from, if any."""
    frames = None
    if policy.conditioned:
        size = (len(texts), 3, policy.config.height, policy.config.width)
        frames = torch.randint(0, 256, size, generator=torch.Generator().manual_seed(6)).to(torch.uint8)
    return policy.encode(texts, frames)[0], frames


def noise(policy: Policy, rows: int = len(TEXTS)) -> Tensor:
    """Initial noise [rows,C,F,H,W]."""
    return torch.randn(rows, *policy.latent_shape, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def ode(policy: Policy, x: Tensor, embeds: Mapping[str, Tensor], steps: int = STEPS) -> Tensor:
    """The deterministic sampler on the policy's grid: what the stock pipeline should give from x."""
    grid, coefs = tabulated(policy, "ode", steps)
    x = policy.start(x, embeds)
    for i in range(steps):
        out = policy.predict(policy.module, x, grid.time[i].expand(len(x)), embeds)
        still = torch.zeros(len(x), dtype=torch.bool)
        x = policy.transition(coefs, torch.full((len(x),), i), still, x, out).mean
    return x


@torch.no_grad()
def stock(
    policy: Policy, pipe: Any, x: Tensor, kind: str, frames: Tensor | None = None, steps: int = STEPS
) -> Tensor:
    """What the stock call makes from noise x and `TEXTS`, `kind` being its output_type.

    Latents for "latent", in the form of `policy.stock_output`; for "np" values in [0, 1], [B,Y,X,3] or
    [B,M,Y,X,3].
    """
    from PIL import Image

    texts = list(TEXTS[: len(x)])
    settings = policy.call_settings()
    outputs = []
    # The stock call takes one picture for all prompts, hence rows one at a time where there are pictures.
    for rows in [slice(None)] if frames is None else [slice(i, i + 1) for i in range(len(x))]:
        call = settings | {"prompt": texts[rows], "num_inference_steps": steps, "output_type": kind}
        if frames is not None:
            call["image"] = Image.fromarray(frames[rows][0].permute(1, 2, 0).numpy())
        if "negative_prompt" in settings:
            call["negative_prompt"] = [settings["negative_prompt"]] * len(texts[rows])
        out = pipe(**call, latents=policy.stock_latents(x)[rows].clone(), return_dict=False)[0]
        outputs.append(torch.from_numpy(out) if isinstance(out, np.ndarray) else torch.as_tensor(out))
    return torch.cat(outputs)


def open_stock(policy: Policy, folder: Path | str | None = None) -> Any:
    """The stock pipeline with the scheduler whose steps are the policy's, from `folder` or from where the
    policy came from.
    """
    pipe = open_pipeline(policy.config.path if folder is None else folder, policy.stock_name)
    pipe.scheduler = policy.stock_scheduler(pipe)
    return pipe


def open_pipeline(path: Path | str, name: str) -> Any:
    """The stock pipeline of class `name` at `path`, in float32 with frozen weights; what is null stays so.

    Frozen because a CPU convolution takes another kernel when its weights require gradients, also under
    no_grad.
    """
    import diffusers

    where = resolve(str(path))
    index: Any = diffusers.DiffusionPipeline.load_config(where)
    absent: Any = {k: None for k, entry in index.items() if isinstance(entry, list) and entry[0] is None}
    pipe = getattr(diffusers, name).from_pretrained(where, **absent)
    pipe.set_progress_bar_config(disable=True)
    for component in pipe.components.values():
        if isinstance(component, nn.Module):
            component.requires_grad_(False).eval()
    return pipe


def train_a_little(policy: Policy, scale: float = 0.1) -> None:
    """Move every trained parameter, as training would."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for _, parameter in policy.trainable():
            parameter.add_(scale * torch.randn(parameter.shape, generator=draw))


def one_step(policy: Policy, embeds: Mapping[str, Tensor], module: Any = None) -> Tensor:
    """The guided output, rows at all steps of the grid, by the policy's module or by another."""
    x = policy.start(noise(policy), embeds)
    time = policy.schedule(STEPS).time[torch.arange(len(x)) % STEPS]
    return policy.predict(policy.module if module is None else module, x, time, embeds)


def tabulated(policy: Policy, kernel: Any, steps: int) -> tuple[Schedule, StepTable]:
    """The policy's grid of so many steps, and the coefficients of a kernel on it."""
    grid = policy.schedule(steps)
    # The stock samplers' last step, also where it does not land on x0 (DDIM's last noise level is not 0).
    prediction: Any = policy.prediction
    return grid, transition.table(Kernel(kernel, prediction=prediction), grid, deterministic_last=False)
