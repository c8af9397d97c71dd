"""Fixed samples that are scored again and again (reward.canary): a scorer that changes its mind has drifted.

The first samples of the first training step are kept with the scores that they got then; scored again as the
same batch, they must get the same. A server that was restarted with other weights, an endpoint that serves
another model under the old name, arguments in another order: all that shows here, before a policy is trained
on it. Samples that a scorer cannot judge are logged and say nothing of drift.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlvis.records import PromptBatch, Trajectories
from rlvis.reward import cache, stage
from rlvis.reward.canaries.drift import NAME, Kept, drift, load, save
from rlvis.reward.contract import Term, or_nan
from rlvis.runtime import dist
from rlvis.runtime.dist import World
from rlvis.schema import CanaryConfig

log = logging.getLogger(__name__)


class DriftError(RuntimeError):
    """A scorer gives other scores to the samples that it scored at the start."""


class Canaries:
    """The canaries of one run, held by the rank that writes its folder.

    terms: of the run; their caches are passed by. retries: as for training.
    """

    def __init__(self, run_dir: Path, terms: Sequence[Term], tolerance: float, retries: int) -> None:
        """Raises ValueError when what an earlier part of the run kept cannot be read."""
        self.run_dir, self.tolerance, self.retries = Path(run_dir), tolerance, retries
        self.terms = cache.bare(terms)
        self.names = tuple(term.name for term in terms)
        self.kept = load(self.run_dir)
        if self.kept is not None and self.kept.terms != self.names:
            log.warning(
                "canaries: %s were scored by %s and the run now has %s: they start anew",
                *(self.run_dir / f"{NAME}.npz", ", ".join(self.kept.terms), ", ".join(self.names)),
            )
            self.kept = None

    def begin(self, media: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> None:
        """Score samples uint8 [n, M, 3, Y, X] for the first time, as one batch, and keep both."""
        scores = self._score(media, prompts, metadata)
        self._keep(Kept(media, *scores, tuple(prompts), tuple(metadata), self.names))
        log.info("canaries: %d samples with their scores are kept in %s", len(media), self.run_dir)

    def look(self, step: int) -> str | None:
        """Score the kept samples after `step` steps; what has drifted, in words, or None.

        A first score that is missing is taken now.
        """
        kept = self.kept
        assert kept is not None, "nothing was kept to look at"
        now = self._score(kept.media, kept.prompts, kept.metadata)
        message = drift(kept, now, self.tolerance)
        late = kept.value.isnan() & now[0].isfinite()
        if bool(late.any()):
            value, var, dof = (torch.where(late, *pair) for pair in zip(now, kept.scores, strict=True))
            self._keep(replace(kept, value=value, noise_var=var, noise_dof=dof))
        if message is None:
            return None
        return (
            f"after training step {step} {message}. The policy would learn from scores that no longer mean "
            "what they meant, so the run stops: make the scorer what it was and type "
            f"resume={self.run_dir}; or, if it is to be the new one, remove {self.run_dir / NAME}.json first"
        )

    def _score(
        self, media: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """value, noise_var, noise_dof, each [n, R], NaN where missing."""
        scores = stage.score(self.terms, prompts, metadata, media, self.retries)
        if not bool(scores.valid.all()):
            log.warning("canaries: %d of %d have no score now", int((~scores.valid).sum()), len(prompts))
        value = scores.value
        return value, or_nan(scores.noise_var, value), or_nan(scores.noise_dof, value)

    def _keep(self, kept: Kept) -> None:
        self.kept = kept
        save(kept, self.run_dir)


class DriftWatch:
    """Looks every `config.every` steps, and a drift stops every rank; with 0 it does nothing. Rank 0 holds
    the samples.
    """

    def __init__(
        self, config: CanaryConfig, terms: Sequence[Term], retries: int, world: World, run_dir: Path
    ) -> None:
        """Raises ValueError when what an earlier part of the run kept cannot be read."""
        self.every, self.samples = config.every, config.samples
        self.canaries: Canaries | None = None
        self._pieces: list[Trajectories] = []
        if self.every and world.is_main:
            self.canaries = Canaries(run_dir, terms, config.tolerance, retries)

    def take(self, piece: Trajectories) -> None:
        """Keep of a shard's samples, with media, what is still wanted."""
        if self.canaries is None or self.canaries.kept is not None:
            return
        wanted = min(self.samples - sum(kept.rows for kept in self._pieces), piece.rows)
        if wanted > 0:
            self._pieces.append(piece.take(range(wanted)))

    def resumed(self, step: int) -> None:
        """A run goes on after `step` steps: look at once. A collective; raises DriftError."""
        if self.every:
            self._look(step)

    def after(self, step: int, prompts: PromptBatch) -> None:
        """Training step `step`, from 1, is done, with these prompts. A collective; raises DriftError."""
        if self.canaries is not None and self.canaries.kept is None and self._pieces:
            whole = Trajectories.concatenate(self._pieces)
            self._pieces = []
            assert whole.media is not None, "shards are shown with their media"
            places = whole.prompt.tolist()
            texts, metadata = [prompts.texts[p] for p in places], [prompts.metadata[p] for p in places]
            self.canaries.begin(whole.media, texts, metadata)
        if self.every and step % self.every == 0:
            self._look(step)

    def _look(self, step: int) -> None:
        message = None
        if self.canaries is not None and self.canaries.kept is not None:
            message = self.canaries.look(step)
        message = dist.broadcast_object(message)
        if message is not None:
            raise DriftError(message)
