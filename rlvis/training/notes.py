"""What a training step leaves in the run folder beside its metrics: trust.jsonl, details.jsonl, groups/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlvis.observe import alarms, details, extremes, trust_table
from rlvis.runtime import dist
from rlvis.schema import Config, CrtForm, TrustKind
from rlvis.training.parts import Parts, StepRecords


def trusts(config: Config) -> bool:
    """Whether groups are weighed or contrasted at all."""
    return config.trust.kind is not TrustKind.none or config.trust.crt.form is not CrtForm.none


def pictured(config: Config, step: int) -> bool:
    """Whether pictures of training step `step`, from 1, are kept: at the steps of the sample sheets."""
    every = config.tracker.samples_every
    return bool(every) and (step % every == 0 or step == config.train.steps)


def resume(run_dir: Path, step: int) -> None:
    """Drop the lines from `step` on, the first step to come."""
    trust_table.resume(run_dir, step)
    details.resume(run_dir, step)
    alarms.resume(run_dir, step)


def _played(parts: Parts, frames: int) -> dict[str, float]:
    """The rate at which `frames` frames of a clip last as long as all of it; nothing for pictures."""
    if frames == 1:
        return {}
    return {"fps": parts.policy.frame_rate * frames / parts.config.model.frames}


def take(parts: Parts, run_dir: Path, records: StepRecords, step: int) -> None:
    """Write down training step `step`, from 1; a collective."""
    config, leads = parts.config, parts.world.leads
    groups: list[dict[str, Any]] = []
    if trusts(config):
        groups = trust_table.rows(
            records.trust,
            records.rewards,
            records.prompts,
            step,
            config.advantage.combine,
            posterior=config.trust.kind is TrustKind.posterior,
        )
    if leads:
        if groups:
            trust_table.append(run_dir, groups)
        details.append(run_dir, details.row(records.prompts, records.rewards, records.update, step))
    if records.thumbnails is not None:
        places = zip(records.trajectories.prompt.tolist(), records.trajectories.sample.tolist(), strict=True)
        # Of ranks that hold the same rows one writes the pictures.
        rows = [] if dist.repeats() else list(places)
        extremes.write(
            run_dir,
            step,
            records.prompts,
            records.rewards,
            dict(zip(rows, records.thumbnails[: len(rows)], strict=True)),
            groups,
            None if records.map is None else dict(zip(rows, records.map[: len(rows)], strict=True)),
            leads=leads,
            barrier=dist.barrier,
            **_played(parts, records.thumbnails.shape[1]),
        )
