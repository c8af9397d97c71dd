"""Parity kit: does an adapter do what the stock diffusers pipeline does? For tests, and for a new family.

`python -m tests.kit FAMILY FOLDER height=64 width=96`, in a checkout, prints a line per claim: equal latents
and pixels from equal noise, a ratio of exactly 1 before the first update, equal outputs after an export.
FOLDER is any checkpoint of the family; a tiny one with random weights takes seconds on a CPU.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from rlvis.flow import logprob
from rlvis.models.load import load_policy
from rlvis.models.policy import Policy
from rlvis.schema import LoraConfig, ModelConfig
from tests import sides

NEGATIVE = "a green ring"
GUIDED = 4.5
LATENTS_BOUND = 1e-5  # float32: prompts are encoded together there and one at a time here
LEVELS_BOUND = 1.0  # of 255: rounded from values that may differ in their last bits
SIZES: dict[str, Any] = {"height": 32, "width": 48, "lora": LoraConfig(4, 8), "negative_prompt": NEGATIVE}


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
        changes: of `ModelConfig`; without them 32 x 48 pixels, one frame, a LoRA of rank 4 and alpha 8.
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


def _sampling(policy: Policy, label: str) -> Iterator[Result]:
    """Latents and pixels of the deterministic sampler against the stock call."""
    x = sides.noise(policy)
    embeds, frames = sides.embedded(policy)
    pipe = sides.open_stock(policy)
    ours = sides.ode(policy, x, embeds)
    theirs = sides.stock(policy, pipe, x, "latent", frames)
    yield _bounded(f"latents, {label}", (policy.stock_output(ours) - theirs).abs().max(), LATENTS_BOUND)
    pixels = sides.stock(policy, pipe, x, "np", frames)
    wanted = (pixels if pixels.ndim == 5 else pixels[:, None]).movedim(-1, 2) * 255
    decoded = policy.decode(ours).float()
    apart = (decoded - wanted.round()).abs()
    note = f"levels of 255, mean {apart.mean():.2g}; spread of the pixels {decoded.std():.0f}"
    yield _bounded(f"pixels, {label}", apart.max(), LEVELS_BOUND, note)


def _company(policy: Policy) -> Result:
    """An embedding is the same alone and among others."""
    together, frames = sides.embedded(policy)
    alone, _ = policy.encode(sides.TEXTS[1:2], None if frames is None else frames[1:2])
    apart = max(float((together[name][1:2].float() - alone[name].float()).abs().max()) for name in alone)
    return _bounded("embeddings alone and in company", apart, 0, ", ".join(alone))


def _ratio(policy: Policy) -> Iterator[Result]:
    """A stochastic rollout and its replay: the ratio is exactly 1, and every parameter gets a gradient."""
    grid, coefs = sides.tabulated(policy, "sde" if policy.prediction == "flow" else "ddim", sides.STEPS)
    sides.train_a_little(policy)
    embeds, _ = sides.embedded(policy)
    x = policy.start(sides.noise(policy), embeds)
    # Rows at different steps, for policies with a denoiser for each part of them.
    step, drawn = torch.arange(len(x)) % (sides.STEPS - 1), torch.ones(len(x), dtype=torch.bool)
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
    embeds, _ = sides.embedded(policy)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        before = sides.one_step(policy, embeds)
        sides.train_a_little(policy)
        after = sides.one_step(policy, embeds)
        policy.export(folder)
        pipe = sides.open_stock(policy)
        for keywords in policy.lora_settings():
            pipe.load_lora_weights(folder, **keywords)
        theirs = sides.one_step(policy, embeds, policy.stock_module(pipe))
    note = f"training moved the output by {(after - before).abs().max():.2g}"
    yield _bounded("LoRA in the stock pipeline", (theirs - after).abs().max(), 0, note)


def _full_export(policy: Policy) -> Iterator[Result]:
    """A trained pipeline, opened by the stock from_pretrained and sampled, and by this adapter."""
    embeds, frames = sides.embedded(policy)
    x = sides.noise(policy)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        before = sides.one_step(policy, embeds)
        sides.train_a_little(policy, 0.02)
        after, sample = sides.one_step(policy, embeds), sides.ode(policy, x, embeds)
        policy.export(folder)
        pipe = sides.open_stock(policy, folder)
        theirs = sides.one_step(policy, embeds, policy.stock_module(pipe))
        latents = sides.stock(policy, pipe, x, "latent", frames)
        again = load_policy(replace(policy.config, path=folder), "cpu")
        ours = sides.one_step(again, sides.embedded(again)[0])
    note = f"training moved the output by {(after - before).abs().max():.2g}"
    yield _bounded("model in the stock pipeline", (theirs - after).abs().max(), 0, note)
    apart = (policy.stock_output(sample) - latents).abs().max()
    yield _bounded("latents of the exported model", apart, LATENTS_BOUND)
    yield _bounded("model opened again here", (ours - after).abs().max(), 0)


def _in_last_block(name: str, names: Sequence[str]) -> bool:
    """Whether a parameter is in the last block of its list: transformer_blocks.1.* of blocks 0 and 1."""
    match = re.match(r"(.*?)\.(\d+)\.", name)
    if match is None:
        return False
    start = re.escape(match[1]) + r"\.(\d+)\."
    return int(match[2]) == max(int(other[1]) for n in names if (other := re.match(start, n)))


def _bounded(name: str, number: Tensor | float, bound: float, note: str = "") -> Result:
    value = float(number.detach() if isinstance(number, Tensor) else number)
    return Result(name, value <= bound, value, bound, note)  # False for NaN too


def main(words: Sequence[str]) -> int:
    """`FAMILY FOLDER [key=value ...]` with keys of `model`; 0 if all claims hold."""
    if len(words) < 2 or any(word.count("=") != 1 for word in words[2:]):
        print(
            "usage: python -m tests.kit FAMILY FOLDER "
            "[height=64 width=96 frames=5 max_tokens=64 cfg=4.5 condition=first_frame]"
        )
        return 2
    typed: Any = OmegaConf.merge(OmegaConf.structured(ModelConfig), OmegaConf.from_dotlist([*words[2:]]))
    changes = {key: typed[key] for key in (word.partition("=")[0] for word in words[2:])}
    results = check(words[0], words[1], **changes)
    print(table(results))
    return 0 if all(r.ok for r in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
