"""Parity kit: does an adapter do what the stock diffusers pipeline does? For tests, and for a new family.

`python -m rlvis.models.kit FAMILY FOLDER height=64 width=96` prints one line per claim: equal latents and
pixels from equal noise, a ratio of exactly 1 before the first update, equal outputs after an export. FOLDER
is any checkpoint of the family; a tiny one with random weights takes seconds on a CPU. Unusual: it is part of
the package and not of the tests, so that an adapter written elsewhere can be held to the same claims.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlvis.flow import kernels, logprob
from rlvis.flow.kernels import Kernel, StepTable
from rlvis.models.load import load_policy
from rlvis.models.policy import Policy
from rlvis.models.source import resolve
from rlvis.records import Schedule
from rlvis.schema import Condition, LoraConfig, ModelConfig

TEXTS = ("a red circle", "a blue square", "a ring")
NEGATIVE = "a green ring"
STEPS = 3
GUIDED = 4.5
LATENTS_BOUND = 1e-5  # float32: prompts are encoded together there and one at a time here
LEVELS_BOUND = 1.0  # of 255: rounded from values that may differ in their last bits
SIZES: dict[str, Any] = {"height": 32, "width": 48, "lora": LoraConfig(4, 6), "negative_prompt": NEGATIVE}


@dataclass(frozen=True)
class Result:
    """One claim: `number` was measured, and may be at most `bound`."""

    name: str
    ok: bool
    number: float
    bound: float
    note: str = ""


def check(family: str, folder: Path | str, **changes: Any) -> list[Result]:
    """Hold the adapter `family` to the stock pipeline at `folder`, in float32 on the CPU.

    Args:
        changes: of `ModelConfig`; without them 32 x 48 pixels, one frame, a LoRA of rank 4 and alpha 6.
            cfg is the guidance of the guided runs (4.5); 1 for a family without.

    Returns:
        Every claim with its measured number, whether it holds or not.

    Raises:
        ValueError: the checkpoint is of another family, or cannot make samples of this size.
    """
    cfg = changes.pop("cfg", GUIDED)
    config = ModelConfig(family=family, path=str(folder), **(SIZES | changes))
    results: list[Result] = []
    for scale in sorted({1.0, cfg}):
        policy = load_policy(replace(config, cfg=scale, cfg_2=None if scale == 1 else config.cfg_2), "cpu")
        results += _sampling(policy, f"cfg={scale:g}")
    results += [_company(policy), *_ratio(policy)]
    results += _lora_export(load_policy(replace(config, cfg=cfg), "cpu"))
    results += _full_export(load_policy(replace(config, cfg=cfg, lora=None), "cpu"))
    return results


def table(results: Sequence[Result]) -> str:
    """The results as lines of text."""
    wide = max(len(r.name) for r in results)
    return "\n".join(
        f"{'ok' if r.ok else 'FAIL':4} {r.name:{wide}} {r.number:9.3g} of {r.bound:g}  {r.note}".rstrip()
        for r in results
    )


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
    """The deterministic sampler on the policy's own grid: what the stock pipeline should give from x."""
    grid, coefs = _tabulated(policy, "ode", steps)
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
    made = []
    # The stock call takes one picture for all prompts, hence rows one at a time where there are pictures.
    for rows in [slice(None)] if frames is None else [slice(i, i + 1) for i in range(len(x))]:
        words: dict[str, Any] = {"prompt": texts[rows]}
        if frames is not None:
            words["image"] = Image.fromarray(frames[rows][0].permute(1, 2, 0).numpy())
        if "negative_prompt" in settings:
            words["negative_prompt"] = [settings["negative_prompt"]] * len(texts[rows])
        given = policy.stock_latents(x)[rows].clone()
        call = settings | words | {"latents": given, "num_inference_steps": steps, "output_type": kind}
        out = pipe(**call, return_dict=False)[0]
        made.append(torch.from_numpy(out) if isinstance(out, np.ndarray) else torch.as_tensor(out))
    return torch.cat(made)


def open_stock(policy: Policy, folder: Path | str | None = None) -> Any:
    """The stock pipeline in float32 with frozen weights, from `folder` or from where the policy came from.

    Frozen because a CPU convolution takes another kernel when its weights require gradients, also under
    no_grad.
    """
    import diffusers

    where = resolve(policy.config.path if folder is None else str(folder))
    index: Any = diffusers.DiffusionPipeline.load_config(where)
    absent: Any = {k: None for k, entry in index.items() if isinstance(entry, list) and entry[0] is None}
    pipe = getattr(diffusers, policy.stock_name).from_pretrained(where, **absent)
    pipe.scheduler = policy.stock_scheduler(pipe)
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
    """The guided output, rows at all steps of the grid, by the policy's own module or by another."""
    x = policy.start(noise(policy), embeds)
    time = policy.schedule(STEPS).time[torch.arange(len(x)) % STEPS]
    return policy.predict(policy.module if module is None else module, x, time, embeds)


def _sampling(policy: Policy, label: str) -> Iterator[Result]:
    """Latents and pixels of the deterministic sampler against the stock call."""
    x = noise(policy)
    embeds, frames = embedded(policy)
    pipe = open_stock(policy)
    ours = ode(policy, x, embeds)
    theirs = stock(policy, pipe, x, "latent", frames)
    yield _bounded(f"latents, {label}", (policy.stock_output(ours) - theirs).abs().max(), LATENTS_BOUND)
    pixels = stock(policy, pipe, x, "np", frames)
    wanted = (pixels if pixels.ndim == 5 else pixels[:, None]).movedim(-1, 2) * 255
    made = policy.decode(ours)
    apart = (made.float() - wanted.round()).abs()
    note = f"levels of 255, mean {apart.mean():.2g}; spread of the pixels {made.float().std():.0f}"
    yield _bounded(f"pixels, {label}", apart.max(), LEVELS_BOUND, note)


def _company(policy: Policy) -> Result:
    """An embedding is the same alone and among others."""
    together, frames = embedded(policy)
    alone, _ = policy.encode(TEXTS[1:2], None if frames is None else frames[1:2])
    apart = max(float((together[name][1:2].float() - alone[name].float()).abs().max()) for name in alone)
    return _bounded("embeddings alone and in company", apart, 0, ", ".join(alone))


def _ratio(policy: Policy) -> Iterator[Result]:
    """A stochastic rollout and its replay: the ratio is exactly 1, and every parameter gets a gradient."""
    grid, coefs = _tabulated(policy, "sde" if policy.prediction == "flow" else "ddim", STEPS)
    train_a_little(policy)
    embeds, _ = embedded(policy)
    x = policy.start(noise(policy), embeds)
    # Rows at different steps, for policies with a denoiser for each part of them.
    step, drawn = torch.arange(len(x)) % (STEPS - 1), torch.ones(len(x), dtype=torch.bool)
    time = grid.time[step]
    with torch.no_grad():
        out = policy.predict(policy.module, x, time, embeds)
        moved = policy.transition(coefs, step, drawn, x, out)
        fresh = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
        after = policy.hold(logprob.draw(moved.mean, moved.std, fresh, torch.float32), x)
        before = logprob.log_prob(after, moved.mean, moved.std)
    out = policy.predict(policy.module, x, time, embeds)
    again = policy.transition(coefs, step, drawn, x, out)
    ratio = (logprob.log_prob(after, again.mean, again.std) - before).exp()
    yield _bounded("ratio - 1 before an update", (ratio - 1).abs().max(), 0)
    torch.autograd.backward(ratio.mean())
    trained = policy.trainable()
    silent = [name for name, p in trained if p.grad is None or not bool(p.grad.abs().max() > 0)]
    # What the last block does to the text stream reaches no output in several architectures.
    inner = [name for name in silent if not _in_last_block(name, [name for name, _ in trained])]
    note = f"of {len(trained)}, and {len(silent) - len(inner)} in a last block"
    note += f"; the first is {inner[0]}" if inner else ""
    yield _bounded("trained parameters without a gradient", len(inner), 0, note)


def _lora_export(policy: Policy) -> Iterator[Result]:
    """A trained LoRA, opened by the stock pipeline's load_lora_weights."""
    embeds, _ = embedded(policy)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        before = one_step(policy, embeds)
        train_a_little(policy)
        after = one_step(policy, embeds)
        policy.export(folder)
        pipe = open_stock(policy)
        for words in policy.lora_settings():
            pipe.load_lora_weights(folder, **words)
        theirs = one_step(policy, embeds, policy.stock_module(pipe))
    note = f"training moved the output by {(after - before).abs().max():.2g}"
    yield _bounded("LoRA in the stock pipeline", (theirs - after).abs().max(), 0, note)


def _full_export(policy: Policy) -> Iterator[Result]:
    """A trained pipeline, opened by the stock from_pretrained and sampled, and by this adapter."""
    embeds, frames = embedded(policy)
    x = noise(policy)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        before = one_step(policy, embeds)
        train_a_little(policy, 0.02)
        after, sample = one_step(policy, embeds), ode(policy, x, embeds)
        policy.export(folder)
        pipe = open_stock(policy, folder)
        theirs = one_step(policy, embeds, policy.stock_module(pipe))
        latents = stock(policy, pipe, x, "latent", frames)
        again = load_policy(replace(policy.config, path=folder), "cpu")
        ours = one_step(again, embedded(again)[0])
    note = f"training moved the output by {(after - before).abs().max():.2g}"
    yield _bounded("model in the stock pipeline", (theirs - after).abs().max(), 0, note)
    apart = (policy.stock_output(sample) - latents).abs().max()
    yield _bounded("latents of the exported model", apart, LATENTS_BOUND)
    yield _bounded("model opened again here", (ours - after).abs().max(), 0)


def _tabulated(policy: Policy, kernel: Any, steps: int) -> tuple[Schedule, StepTable]:
    grid = policy.schedule(steps)
    # The stock samplers' last step, also where it does not land on x0 (DDIM's last noise level is not 0).
    prediction: Any = policy.prediction
    return grid, kernels.table(Kernel(kernel, prediction=prediction), grid, deterministic_last=False)


def _in_last_block(name: str, names: Sequence[str]) -> bool:
    """Whether a parameter is in the last block of its list: transformer_blocks.1.* of blocks 0 and 1."""
    found = re.match(r"(.*?)\.(\d+)\.", name)
    if found is None:
        return False
    start = re.escape(found[1]) + r"\.(\d+)\."
    return int(found[2]) == max(int(other[1]) for n in names if (other := re.match(start, n)))


def _bounded(name: str, number: Tensor | float, bound: float, note: str = "") -> Result:
    value = float(number.detach() if isinstance(number, Tensor) else number)
    return Result(name, value <= bound, value, bound, note)  # False for NaN too


def main(words: Sequence[str]) -> int:
    """`FAMILY FOLDER [key=value ...]` with keys of `model`; 0 if all claims hold."""
    if len(words) < 2 or any(word.count("=") != 1 for word in words[2:]):
        print(
            "usage: python -m rlvis.models.kit FAMILY FOLDER "
            "[height=64 width=96 frames=5 max_tokens=64 cfg=4.5 condition=first_frame]"
        )
        return 2
    changes: dict[str, Any] = dict(word.split("=") for word in words[2:])
    for key in {"height", "width", "frames", "max_tokens"} & set(changes):
        changes[key] = int(changes[key])
    for key in {"cfg", "cfg_2", "guidance"} & set(changes):
        changes[key] = float(changes[key])
    if "condition" in changes:
        changes["condition"] = Condition[changes["condition"]]
    results = check(words[0], words[1], **changes)
    print(table(results))
    return 0 if all(r.ok for r in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
