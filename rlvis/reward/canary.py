"""Fixed samples that are scored again and again (reward.canary): a scorer that changes its mind has drifted.

The first samples of the first training step are kept in RUN/canary.npz and canary.json with the scores that
they got then; scored again as the same batch, they must get the same. A server that was restarted with other
weights, an endpoint that serves another model under the old name, arguments in another order: all that shows
here, before a policy is trained on it. Samples that a scorer cannot judge are told and say nothing of drift.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlvis.reward import cache, stage
from rlvis.reward.contract import Term

log = logging.getLogger(__name__)

NAME = "canary"
# A score may move by this much in any case, in units of its size or of 1, whichever is more: what rounding to
# float32 in another order of sums does.
FLOOR = 1e-6
# Chance of a noisy scorer that has not drifted to move further than it may, for one score of one look.
CHANCE = 1e-6


class DriftError(RuntimeError):
    """A scorer gives other scores to the samples that it scored at the start."""


@dataclass(frozen=True)
class Kept:
    """What was kept: media uint8 [n, M, 3, Y, X] with prompts and metadata, and first scores [n, R] of the
    terms (NaN where one could not judge), their noise_var and noise_dof (NaN where not stated).
    """

    media: Tensor
    prompts: tuple[str, ...]
    metadata: tuple[dict[str, Any], ...]
    terms: tuple[str, ...]
    value: Tensor
    noise_var: Tensor
    noise_dof: Tensor


class Canaries:
    """The canaries of one run, held by the rank that writes its folder.

    terms: of the run; their caches are passed by. retries: as for training.
    """

    def __init__(self, run_dir: Path, terms: Sequence[Term], tolerance: float, retries: int) -> None:
        """Raises ValueError when what an earlier part of the run kept cannot be read."""
        self.run_dir, self.tolerance, self.retries = Path(run_dir), tolerance, retries
        self.terms = cache.bare(terms)
        self.kept = load(self.run_dir)
        names = tuple(term.name for term in terms)
        if self.kept is not None and self.kept.terms != names:
            log.warning(
                "canaries: %s were scored by %s and the run now has %s: they start anew",
                *(self.run_dir / f"{NAME}.npz", ", ".join(self.kept.terms), ", ".join(names)),
            )
            self.kept = None

    def begin(self, media: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> None:
        """Score samples uint8 [n, M, 3, Y, X] for the first time, as one batch, and keep both."""
        columns = self._scored(media, prompts, metadata)
        names = tuple(term.name for term in self.terms)
        self._keep(Kept(media, tuple(prompts), tuple(metadata), names, *columns))
        log.info("canaries: %d samples with their scores are kept in %s", len(media), self.run_dir)

    def look(self, step: int) -> str | None:
        """Score the kept samples after `step` steps; what has drifted, in words, or None.

        A first score that is missing is taken now.
        """
        kept = self.kept
        assert kept is not None, "nothing was kept to look at"
        now = self._scored(kept.media, kept.prompts, kept.metadata)
        found = drift(kept, now, self.tolerance)
        late = kept.value.isnan() & now[0].isfinite()
        if bool(late.any()):
            before = (kept.value, kept.noise_var, kept.noise_dof)
            columns = [torch.where(late, new, old) for new, old in zip(now, before, strict=True)]
            self._keep(Kept(kept.media, kept.prompts, kept.metadata, kept.terms, *columns))
        if found is None:
            return None
        return (
            f"after training step {step} {found}. The policy would learn from scores that no longer mean "
            "what they meant, so the run stops: make the scorer what it was and type "
            f"resume={self.run_dir}; or, if it is to be the new one, remove {self.run_dir / NAME}.json first"
        )

    def _scored(
        self, media: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """value, noise_var, noise_dof, each [n, R], NaN where missing."""
        scores = stage.score(self.terms, prompts, metadata, media, self.retries)
        if not bool(scores.valid.all()):
            log.warning("canaries: %d of %d have no score now", int((~scores.valid).sum()), len(prompts))
        nan = torch.full_like(scores.value, math.nan)
        var, dof = (nan if noise is None else noise for noise in (scores.noise_var, scores.noise_dof))
        return scores.value, var, dof

    def _keep(self, kept: Kept) -> None:
        self.kept = kept
        save(kept, self.run_dir)


def drift(kept: Kept, now: Sequence[Tensor], tolerance: float) -> str | None:
    """The largest change beyond what is allowed, with both values, term and sample; None where there is none.

    now: value, noise_var, noise_dof, each [n, R]. A score may move by tolerance times the standard deviation
    of the term's first scores over the samples, and by FLOOR max(1, |score|) in any case; where a scorer
    states its noise also by what `_noise` says.
    """
    worst, told = 1.0, None
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
            told = (
                f"the reward {name} has drifted: canary {i} ({kept.prompts[i]!r}) scored "
                f"{float(first[i]):.8g} at first and scores {float(value[i]):.8g} now; at most "
                f"{float(allowed[i]):.3g} is allowed"
                f"{how} ({int((excess > 1).sum())} of {len(first)} canaries moved further than that)"
            )
    return told


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
    arrays = {name: getattr(kept, name).numpy() for name in ("media", "value", "noise_var", "noise_dof")}
    folder = Path(run_dir)
    aside = folder / f"{NAME}.npz.tmp"
    with aside.open("wb") as file:
        np.savez(file, **arrays)
    os.replace(aside, folder / f"{NAME}.npz")
    told = {"prompts": kept.prompts, "metadata": kept.metadata, "terms": kept.terms}
    aside = folder / f"{NAME}.json.tmp"
    aside.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, folder / f"{NAME}.json")


def load(run_dir: Path) -> Kept | None:
    """What a run kept; None where it kept nothing. Raises ValueError when the files cannot be read."""
    side, heavy = (Path(run_dir) / f"{NAME}.{end}" for end in ("json", "npz"))
    if not side.exists():
        return None
    try:
        told = json.loads(side.read_text(encoding="utf-8"))
        with np.load(heavy, allow_pickle=False) as arrays:
            media, value, var, dof = (
                torch.from_numpy(arrays[name]) for name in ("media", "value", "noise_var", "noise_dof")
            )
        prompts, metadata, terms = (tuple(told[name]) for name in ("prompts", "metadata", "terms"))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{heavy} and {side.name} cannot be read as the canaries of this run ({error}); remove {side} to "
            "take new ones"
        ) from error
    return Kept(media, prompts, metadata, terms, value, var, dof)
