"""What is kept of a run's first samples, and how far their scores may move before that is a drift."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

NAME = "canary"
ARRAYS = ("media", "value", "noise_var", "noise_dof")
TEXTS = ("prompts", "metadata", "terms")
# A score may move by this much in any case, in units of its size or of 1, whichever is more: what rounding to
# float32 in another order of sums does.
FLOOR = 1e-6
# Chance of a noisy scorer that has not drifted to move further than it may, for one score of one look.
CHANCE = 1e-6


@dataclass(frozen=True)
class Kept:
    """What was kept: media uint8 [n, M, 3, Y, X] with prompts and metadata, and first scores [n, R] of the
    terms (NaN where one could not judge), their noise_var and noise_dof (NaN where not stated).
    """

    media: Tensor
    value: Tensor
    noise_var: Tensor
    noise_dof: Tensor
    prompts: Sequence[str]
    metadata: Sequence[dict[str, Any]]
    terms: Sequence[str]

    @property
    def scores(self) -> tuple[Tensor, Tensor, Tensor]:
        """value, noise_var, noise_dof."""
        return self.value, self.noise_var, self.noise_dof


def drift(kept: Kept, now: Sequence[Tensor], tolerance: float) -> str | None:
    """The largest change beyond what is allowed, with both values, term and sample; None where there is none.

    now: value, noise_var, noise_dof, each [n, R]. A score may move by tolerance times the standard deviation
    of the term's first scores over the samples, and by FLOOR max(1, |score|) in any case; where a scorer
    states its noise also by what `_noise` says.
    """
    worst, message = 1.0, None
    for r, name in enumerate(kept.terms):
        first, value = kept.value[:, r], now[0][:, r]
        known = first[first.isfinite()]
        if not len(known):
            continue
        noise = _noise([kept.noise_var[:, r], now[1][:, r]], [kept.noise_dof[:, r], now[2][:, r]])
        plain = (FLOOR * first.abs().clamp(min=1)).clamp(min=tolerance * float(known.std(correction=0)))
        allowed = torch.maximum(plain, noise)
        excess = ((value - first).abs() / allowed).nan_to_num(nan=0.0)  # no score is no drift
        i = int(excess.argmax())
        if float(excess[i]) > worst:
            worst = float(excess[i])
            how = ", by the noise that it states" if bool(noise[i] > plain[i]) else ""
            message = (
                f"the reward {name} has drifted: canary {i} ({kept.prompts[i]!r}) scored "
                f"{float(first[i]):.8g} at first and scores {float(value[i]):.8g} now; at most "
                f"{float(allowed[i]):.3g} is allowed"
                f"{how} ({int((excess > 1).sum())} of {len(first)} canaries moved further than that)"
            )
    return message


def _noise(variances: Sequence[Tensor], freedoms: Sequence[Tensor]) -> Tensor:
    """How far scores [n] may move by noise that was stated before and now, 0 where it was not.

    The quantile beyond which an unchanged scorer moves with a chance of CHANCE, times the deviation of the
    difference: normal where the variances are known; Student's t where they are estimated, of the estimates
    pooled over samples and both times, for one from three calls alone is often nearly 0.
    """
    from scipy import stats

    var, dof = torch.stack(list(variances)), torch.stack(list(freedoms))
    if not bool(var.isfinite().any()):
        return torch.zeros(var.shape[1], dtype=torch.float64)
    estimated = dof[var.isfinite()].isfinite()
    if not bool(estimated.any()):
        return float(stats.norm.isf(CHANCE / 2)) * var.sum(0).sqrt().nan_to_num(nan=0.0)
    freedom = float(dof[var.isfinite()].nansum())
    far = float(stats.t.isf(CHANCE / 2, freedom)) if freedom > 0 else math.inf
    pooled = float(var[var.isfinite()].mean())
    return torch.full((var.shape[1],), far * math.sqrt(2 * pooled) if pooled else 0.0, dtype=torch.float64)


def save(kept: Kept, run_dir: Path) -> None:
    """Write RUN/canary.npz and then canary.json, each aside and renamed."""
    folder = Path(run_dir)
    aside = folder / f"{NAME}.npz.tmp"
    with aside.open("wb") as file:
        np.savez(file, **{name: getattr(kept, name).numpy() for name in ARRAYS})
    os.replace(aside, folder / f"{NAME}.npz")
    aside = folder / f"{NAME}.json.tmp"
    content = {name: getattr(kept, name) for name in TEXTS}
    aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, folder / f"{NAME}.json")


def load(run_dir: Path) -> Kept | None:
    """What a run kept; None where it kept nothing. Raises ValueError when the files cannot be read."""
    side, heavy = (Path(run_dir) / f"{NAME}.{end}" for end in ("json", "npz"))
    if not side.exists():
        return None
    try:
        content = json.loads(side.read_text(encoding="utf-8"))
        values: dict[str, Any] = {name: tuple(content[name]) for name in TEXTS}
        with np.load(heavy, allow_pickle=False) as arrays:
            values |= {name: torch.from_numpy(arrays[name]) for name in ARRAYS}
        return Kept(**values)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{heavy} and {side.name} cannot be read as the canaries of this run ({error}); remove {side} to "
            "take new ones"
        ) from error
