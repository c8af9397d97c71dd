"""Canaries inside a run: samples of its first step go to `rlvis.reward.canary`, a drift stops every rank."""

from __future__ import annotations

from pathlib import Path

from rlvis.records import PromptBatch, Trajectories
from rlvis.reward.canary import Canaries, DriftError
from rlvis.runtime import dist
from rlvis.training.parts import Parts


class DriftWatch:
    """Looks every reward.canary.every steps; with 0 it does nothing. The leading rank holds the samples."""

    def __init__(self, parts: Parts, run_dir: Path) -> None:
        """Raises ValueError when what an earlier part of the run kept cannot be read."""
        canary = parts.config.reward.canary
        self.every, self.samples = canary.every, canary.samples
        self.canaries: Canaries | None = None
        self._pieces: list[Trajectories] = []
        if self.every and parts.world.leads:
            retries = parts.config.train.score_retries
            self.canaries = Canaries(run_dir, parts.terms, canary.tolerance, retries)

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
            self._stop(step)

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
            self._stop(step)

    def _stop(self, step: int) -> None:
        found = None
        if self.canaries is not None and self.canaries.kept is not None:
            found = self.canaries.look(step)
        found = dist.broadcast_object(found)
        if found is not None:
            raise DriftError(found)
