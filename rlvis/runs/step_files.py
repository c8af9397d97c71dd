"""What a training step leaves in the run folder beside its metrics: trust.jsonl, details.jsonl, groups/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlvis.observe import alarms, details, extremes, trust_table
from rlvis.records import StepRecords
from rlvis.runtime import dist
from rlvis.runtime.dist import World
from rlvis.schema import Config, CrtForm
from rlvis.trust.form import form_of


def weighs_groups(config: Config) -> bool:
    """Whether groups are weighed or contrasted at all."""
    return config.trust.kind != "none" or config.trust.crt.form is not CrtForm.none


def keeps_pictures(config: Config, step: int) -> bool:
    """Whether pictures of training step `step`, from 1, are kept: at the steps of the sample sheets."""
    every = config.tracker.samples_every
    return bool(every) and (step % every == 0 or step == config.train.steps)


def drop_from(run_dir: Path, step: int) -> None:
    """Drop the lines from `step` on, the first step to come."""
    trust_table.resume(run_dir, step)
    details.resume(run_dir, step)
    alarms.resume(run_dir, step)


def write(
    config: Config, world: World, frame_rate: float | None, run_dir: Path, records: StepRecords, step: int
) -> None:
    """Write down training step `step`, from 1; a collective. frame_rate: of clips, frames a second."""
    groups: list[dict[str, Any]] = []
    if weighs_groups(config):
        groups = trust_table.rows(
            records.trust,
            records.rewards,
            records.prompts,
            step,
            config.advantage.combine,
            posterior=getattr(form_of(config.trust), "has_posterior", False),
        )
    if world.is_main:
        if groups:
            trust_table.append(run_dir, groups)
        details.append(run_dir, details.row(records.prompts, records.rewards, records.update, step))
    if records.thumbnails is None:
        return
    places = zip(records.trajectories.prompt.tolist(), records.trajectories.sample.tolist(), strict=True)
    # Of ranks that hold the same rows one writes the pictures.
    rows = [] if dist.is_duplicate() else list(places)
    frames = records.thumbnails.shape[1]
    extremes.write(
        run_dir,
        step,
        records.prompts,
        records.rewards,
        dict(zip(rows, records.thumbnails[: len(rows)], strict=True)),
        groups,
        None if records.map is None else dict(zip(rows, records.map[: len(rows)], strict=True)),
        is_main=world.is_main,
        barrier=dist.barrier,
        # The rate at which the kept frames of a clip last as long as all of it.
        **({} if frames == 1 or frame_rate is None else {"fps": frame_rate * frames / config.model.frames}),
    )
