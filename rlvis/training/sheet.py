"""The sample sheets of a run: fixed prompts and noise, drawn by the deterministic sampler every few steps."""

from __future__ import annotations

from pathlib import Path

from rlvis.data import sampler
from rlvis.observe import gallery, overlay
from rlvis.observe.trackers import Trackers
from rlvis.records import PromptBatch
from rlvis.rollout.generate import generate
from rlvis.training.assemble import averaged_weights
from rlvis.training.parts import Parts


class SampleSheet:
    """Draws the sheets of one run; tracker.samples_every=0: none. Its methods are collectives."""

    def __init__(self, parts: Parts, run_dir: Path, tracker: Trackers) -> None:
        self.run_dir, self.tracker = run_dir, tracker
        self.every, self.last = parts.config.tracker.samples_every, parts.config.train.steps
        self.prompts = _fixed_prompts(parts) if self.every else None

    def after(self, parts: Parts, step: int) -> None:
        """Draw after training step `step`, from 1 (0: before the first), where that is due."""
        if self.prompts is not None and (step % self.every == 0 or step == self.last):
            self._draw(parts, self.prompts, step)

    def _draw(self, parts: Parts, prompts: PromptBatch, step: int) -> None:
        """With averaged weights, if there are some."""
        policy, config = parts.policy, parts.config
        schedule = policy.schedule(config.sampler.steps, config.sampler.shift, config.sampler.grid)
        rows = config.train.micro_batch
        with averaged_weights(policy, parts.engine, parts.ema):
            media = generate(policy, parts.engine, prompts, schedule, seed=config.seed, micro_batch=rows)
        if not parts.world.is_main:
            return
        path = gallery.write_samples(self.run_dir, step, media, prompts.texts)
        self.tracker.image(step, "samples", path)
        if parts.psm is not None:
            maps = parts.psm(media, policy.free.cpu(), tuple(policy.latent_shape)).cpu()
            rate = policy.frame_rate if media.shape[1] > 1 else None
            path = overlay.write_maps(self.run_dir, step, media, maps, prompts.texts, rate)
            self.tracker.image(step, "maps", path)


def _fixed_prompts(parts: Parts) -> PromptBatch:
    """Evenly spaced over the data set, encoded."""
    n, wanted = len(parts.prompts), parts.config.tracker.samples
    index = sorted({i * n // wanted for i in range(wanted)}) if wanted < n else list(range(n))
    prompts = sampler.select(parts.prompts, index)
    return prompts.replace(embeds=parts.policy.encode(prompts.texts, prompts.frames)[0])
